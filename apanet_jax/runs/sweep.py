"""One config, one or several runs: folds, seeds and variants, side by side.

A config's `sweep` names folds and seeds, its `variants` names runs and the options each adds to
the config; every combination is a run of its own in a folder of its own. Without any, the config
is one run.
"""

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from apanet_jax.config import saved
from apanet_jax.config.definitions import NO_FOLD
from apanet_jax.config.settings import (
    check,
    fingerprint,
    typed,
    unused_by_baseline,
    with_options,
)
from apanet_jax.data.records.reading import open_records
from apanet_jax.data.records.writing import write_records
from apanet_jax.evaluation.results import RESULTS, read_results
from apanet_jax.reports import head_comparison
from apanet_jax.reports.tables import (
    class_table,
    fold_lists,
    fold_markdown,
    published_beside_run,
    results_table,
    unseen_notes,
)
from apanet_jax.runs.bundled_heads import compare_heads
from apanet_jax.runs.episode_images import write_episode_images
from apanet_jax.runs.live_report import DEEPEST, LiveOverview, LiveReport, report_on
from apanet_jax.runs.run import Run, RunMaker
from apanet_jax.runs.scoring import evaluate_checkpoints, trained_heads
from apanet_jax.runtime import compilation, processes
from apanet_jax.runtime.atomic_files import writing
from apanet_jax.runtime.errors import UserError
from apanet_jax.runtime.workdir_lock import sole_use
from apanet_jax.training.loop import train
from apanet_jax.training.side_by_side import train_side_by_side

ALL = ("all",)

Results = dict[str, list[dict[str, Any]]]


class Part(NamedTuple):
    """One of a config's runs.

    Attributes:
      config: its settings.
      group: the folder of its fold and seed, below the workdir; "" if there is one of each.
      variant: its name among the variants; "" if there are none.
    """

    config: ConfigDict
    group: str
    variant: str

    @property
    def folder(self) -> Path:
        """Where the run is kept, below the workdir."""
        return Path(self.group) / self.variant


def run_all(config: ConfigDict, workdir: Path, mode: str) -> Results:
    """Runs every part of `config` under `workdir`, and returns their results by folder.

    Args:
      config: the settings.
      workdir: where a single run is kept; several are kept in folders named after them, and
        `table.md` beside them when there are several folds or seeds.
      mode: "train_and_evaluate", "train" or "evaluate".

    Raises:
      UserError: before anything is compiled, for settings, data or weights that cannot be used, or
        a workdir that another process uses.
    """
    check(config)
    if config.deterministic:
        compilation.make_deterministic()
    if config.evaluation.checkpoint and mode != "evaluate":
        raise UserError(
            f"evaluation.checkpoint={config.evaluation.checkpoint} is scored, never trained on: "
            "pass --mode=evaluate"
        )
    folds = config.sweep.folds or (config.fold,)
    if NO_FOLD in folds and (mode != "train" or config.evaluation.every):
        raise UserError(
            f"fold={NO_FOLD} has no novel class to score: pass --mode=train, with "
            "evaluation.every=0"
        )
    if mode == "evaluate" and not config.evaluation.checkpoint:
        _require_checkpoints(workdir)
    if config.data.generate:
        config = with_drawn_records(config, workdir)
        if processes.is_leader():
            with sole_use(workdir):
                _generate(config, workdir)
        processes.barrier("the data set is there")
    # All of them before the first is trained: what cannot work is refused at once.
    maker = RunMaker()
    all_runs = [(part, maker.make(part.config)) for part in parts(config)]
    with contextlib.ExitStack() as stack:
        for part, _ in all_runs:
            stack.enter_context(sole_use(workdir / part.folder))
        folders = [(run, workdir / part.folder) for part, run in all_runs]
        overview = stack.enter_context(LiveOverview(workdir, folders))
        return _run_all(config, workdir, mode, all_runs, overview)


def _run_all(
    config: ConfigDict,
    workdir: Path,
    mode: str,
    all_runs: Sequence[tuple[Part, Run]],
    overview: LiveOverview,
) -> Results:
    results = {}
    if config.sweep.side_by_side and mode != "evaluate":
        for part, run in all_runs:
            print(_headline(_name(part, workdir), run), flush=True)
        folders = [(run, workdir / part.folder) for part, run in all_runs]
        train_side_by_side([(run.task(), path, LiveReport(run, path)) for run, path in folders])
    for group, members in itertools.groupby(all_runs, key=lambda item: item[0].group):
        runs = list(members)
        for part, run in runs:
            name = _name(part, workdir)
            if mode != "evaluate" and not config.sweep.side_by_side:
                print(_headline(name, run), flush=True)
                train(run.task(), workdir / part.folder, LiveReport(run, workdir / part.folder))
            if mode != "train":
                with LiveReport(run, workdir / part.folder):
                    results[name] = evaluate_checkpoints(run, workdir / part.folder)
            overview.done(workdir / part.folder)
        if mode != "train" and config.evaluation.bundled:
            for part, run in runs:
                _compare_heads(run, workdir / part.folder)
                report_on(run, workdir / part.folder, live=False)
        if mode != "train" and config.evaluation.pictures:
            _draw(runs, workdir, group)
            for part, run in runs:
                report_on(run, workdir / part.folder, live=False)
    if results and processes.is_leader():
        _tell(config, all_runs, results, workdir)
    return results


def _require_checkpoints(workdir: Path) -> None:
    """Refuses a workdir without checkpoints, before anything is written to it."""
    patterns = ("*/" * depth + "checkpoints" for depth in range(DEEPEST + 1))
    if not any(any(workdir.glob(pattern)) for pattern in patterns):
        raise UserError(f"{workdir} holds no checkpoint: train first (--mode=train)")


def with_drawn_records(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Returns a config that draws its data set with the name of its records, in the workdir.

    Raises:
      UserError: it names other records, which would not be looked at.
    """
    drawn = workdir / "records"
    if config.data.records not in ("", str(drawn)) and not config.get("saved", False):
        raise UserError(
            f"data.records={config.data.records} beside data.generate={config.data.generate}, "
            "which draws other images: pass generate=0 to take these records, or leave them out"
        )
    named = config.copy_and_resolve_references()
    named.data.records = str(drawn)
    return named


def parts(config: ConfigDict) -> list[Part]:
    """Returns the runs that a config asks for: seeds, in each the folds, in each the variants.

    Raises:
      UserError: for settings that cannot work.
    """
    check(config)
    folds, seeds = config.sweep.folds, config.sweep.seeds
    if folds == ALL:
        folds = tuple(range(len(open_records(Path(config.data.records)).folds)))
    chosen = _chosen_variants(config)
    result = []
    for seed, fold in itertools.product(seeds or (config.seed,), folds or (config.fold,)):
        group = "/".join([f"seed{seed}"] * bool(seeds) + [f"fold{fold}"] * bool(folds))
        for variant, options in chosen.items():
            single = with_options(config.copy_and_resolve_references(), options)
            with single.unlocked():
                single.fold, single.seed = fold, seed
                for name in ("checkpoint", "list"):
                    path = single.evaluation[name].replace("{fold}", str(fold))
                    single.evaluation[name] = path
                single.sweep.folds = single.sweep.seeds = single.sweep.variants = ()
                single.variants = ConfigDict()
            result.append(Part(single, group, variant))
    if len({part.folder for part in result}) < len(result):
        raise UserError("sweep.folds and sweep.seeds: expected every number once")
    return result


def is_finished(part: Part, workdir: Path) -> bool:
    """Whether a run was trained and scored below `workdir` as its settings say.

    Raises:
      UserError: a run of other settings is there, or its results cannot be read.
    """
    folder, wanted = workdir / part.folder, part.config.evaluation
    if not (folder / RESULTS).exists():
        return False
    rows = read_results(folder)
    if (folder / saved.FILE).exists():
        of_folder = fingerprint(typed(saved.of_run(folder)))
        if of_folder != fingerprint(typed(part.config)):
            raise UserError(
                f"{folder} holds a run of other settings: take another --workdir, or move it away"
            )
    if wanted.list:
        return all(row.get("episode_list") == wanted.list for row in rows)
    scored = {(row["shot"], row["episodes"], row.get("seed", wanted.seed)) for row in rows}
    return scored >= {(shot, wanted.episodes, wanted.seed) for shot in wanted.shots}


def _chosen_variants(config: ConfigDict) -> dict[str, str]:
    """Returns the options of each variant to run, by its name; one without a name if none are."""
    named, wanted = config.variants.to_dict(), config.sweep.variants
    for name in wanted:
        if name not in named:
            raise UserError(
                f"sweep.variants: the config has no variant {name!r}, expected some of "
                + (", ".join(named) or "none")
            )
    return {name: named[name] for name in wanted or named} or {"": ""}


def _name(part: Part, workdir: Path) -> str:
    return str(part.folder) if part.folder.name else workdir.name


def _headline(name: str, run: Run) -> str:
    model, unused = run.settings.model, ", ".join(unused_by_baseline(run.settings))
    return (
        f"{name}: n = {model.num_clusters}, lambda = {model.agnostic_weight}, "
        f"{run.steps} steps of {run.settings.training.batch_size} episodes on "
        f"{run.mesh.size} {run.mesh.devices.flat[0].platform} device(s)"
        + (f"\n  without effect beside num_clusters=0: {unused}" if unused else "")
    )


def _tell(
    config: ConfigDict, done: Sequence[tuple[Part, Run]], results: Results, workdir: Path
) -> None:
    run = done[0][1]
    training_list = run.settings.data.training_list
    episodes = f"{run.data.test_count} episodes, training list {training_list}, %"
    if config.sweep.folds or config.sweep.seeds:
        by_variant = defaultdict(list)
        for (part, _), rows in zip(done, results.values(), strict=True):
            by_variant[part.variant or workdir.name] += rows
        beside = published_beside_run(done[0][1].settings, done[0][1].records)
        table = fold_markdown(by_variant, beside)
        with writing(workdir / "table.md") as file:
            file.write(f"Novel classes, {episodes}\n\n{table}\n\n")
            file.write(indent(class_table(by_variant), " " * 4) + "\n")
        print(f"\nnovel classes, {episodes}\n\n{fold_lists(by_variant, beside)}")
        print(f"\n{class_table(by_variant)}\n\ntable: {workdir / 'table.md'}")
    else:
        print(f"\nnovel classes of fold {config.fold}, {episodes}\n\n{results_table(results)}")
        for note in unseen_notes(itertools.chain(*results.values())):
            print(f"\n{note}")
        print(f"\n{class_table(results)}")
    if rows := [row for part, _ in done for row in head_comparison.read(workdir / part.folder)]:
        print(f"\n{head_comparison.text(rows)}")
    if config.evaluation.pictures:
        print()
        for group in dict.fromkeys(part.group for part, _ in done):
            print(f"pictures: {workdir / group / 'pictures'}")
    left_out = dict.fromkeys(line for _, run in done for line in run.data.left_out())
    for line in left_out:
        print(f"\n{line}")


def _generate(config: ConfigDict, workdir: Path) -> None:
    """Makes the built-in data set in the workdir, unless it is there."""
    from apanet_jax.data.sources.synthetic import SyntheticSource

    if not (workdir / "records").exists():
        print(f"drawing {config.data.generate} training images", flush=True)
        source = SyntheticSource(
            seed=0, train=config.data.generate, val=config.data.generate // 3, size=256
        )
        write_records(source, workdir / "records")


def _compare_heads(run: Run, folder: Path) -> None:
    parameters = processes.local(trained_heads(run, folder)[-1].parameters, run.mesh)
    if processes.is_leader():
        compare_heads(run, parameters, folder)


def _draw(runs: Sequence[tuple[Part, Run]], workdir: Path, group: str) -> None:
    heads = {}
    for part, run in runs:
        head = trained_heads(run, workdir / part.folder)[0]
        own = processes.local(head.parameters, run.mesh)
        heads[part.variant or "prediction"] = (run.network, own)
    # Checkpoints are read together, images drawn by one.
    if processes.is_leader():
        write_episode_images(runs[0][1], heads, workdir / group / "pictures")
