"""One config, one or several runs: the variants that it names, side by side.

A config's `variants` names runs and the options each adds to the config; without any, the config
is one run.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from apanet_jax import settings
from apanet_jax.checkpoint import Checkpoints
from apanet_jax.data import records
from apanet_jax.pictures import write_pictures
from apanet_jax.reporting import results_table
from apanet_jax.run import Run, make_run
from apanet_jax.train import evaluate_checkpoints, restore_parameters, train


def run_all(config: ConfigDict, workdir: Path, mode: str) -> dict[str, list[dict[str, Any]]]:
    """Runs every variant of `config` under `workdir`, and returns their results by name.

    Args:
      config: the settings.
      workdir: where a single run is kept; several are kept in folders named after them.
      mode: "train_and_evaluate", "train" or "evaluate".

    Raises:
      UserError: before anything is compiled, for settings, data or weights that cannot be used.
    """
    settings.check(config)
    if config.data.generate:
        _generate(config, workdir)
    variants = config.variants.to_dict() or {"": ""}
    runs = {
        name: (
            make_run(settings.with_options(config.copy_and_resolve_references(), options)),
            workdir / name,
        )
        for name, options in variants.items()
    }
    results = {}
    for name, (run, directory) in runs.items():
        if mode != "evaluate":
            print(_headline(name or directory.name, run), flush=True)
            train(run, directory)
        if mode != "train":
            results[name or directory.name] = evaluate_checkpoints(run, directory)
    if results:
        print(f"\nnovel classes of fold {config.fold}, {config.evaluation.episodes} episodes, %\n")
        print(results_table(results))
        if config.evaluation.pictures:
            _draw(runs, workdir)
    return results


def _headline(name: str, run: Run) -> str:
    model = run.config.model
    return (
        f"{name}: n = {model.num_clusters}, lambda = {model.agnostic_weight}, "
        f"{run.steps} steps of {run.config.training.batch_size} episodes on "
        f"{run.mesh.size} {run.mesh.devices.flat[0].platform} device(s)"
    )


def _generate(config: ConfigDict, workdir: Path) -> None:
    """Makes the built-in data set in the workdir, unless it is there."""
    from apanet_jax.data.sources.synthetic import SyntheticSource

    config.data.records = str(workdir / "records")
    if not (workdir / "records").exists():
        source = SyntheticSource(
            seed=0, train=config.data.generate, val=config.data.generate // 3, size=256
        )
        records.write(source, workdir / "records")


def _draw(runs: dict[str, tuple[Run, Path]], workdir: Path) -> None:
    heads = {}
    for name, (run, directory) in runs.items():
        with Checkpoints(directory / "checkpoints", run.fingerprint) as checkpoints:
            step = checkpoints.best_step() or checkpoints.latest_step()
            heads[name or "prediction"] = (run.network, restore_parameters(run, checkpoints, step))
    first, _ = next(iter(runs.values()))
    paths = write_pictures(first, heads, workdir / "pictures")
    print(f"\npictures of {len(paths)} episodes: {workdir / 'pictures'}")
