"""Baseline or APANet, for each episode by what both make of its supports, and other mixtures.

    python experiments/paper/support_choice.py --workdir=WORKDIR \
        --config=configs/compare.py:records=RECORDS,seeds=0+1+2,features.seed=0

WORKDIR holds the runs of that config, trained: a baseline and an APANet for each fold and seed. The
branch pays where training images hid the class, and costs where they did not. Supports tell which:
each is compared with the others, or with itself where it is the only one, and the IoU of what a
head finds there says how far it knows the class. A rule mixes the margins of both heads, at 0:
  mean: half of each.
  chosen: of the head with the larger IoU on the supports; where they are equal, APANet.
  weighted: each with a weight that is proportional to its IoU on the supports.
  ratio: half APANet, half the density ratio of the supports (bandwidth 0.2), as `predict` takes it.
  chosen_ratio: half of what is chosen, half the density ratio.
  threshold: APANet above the threshold of `thresholds.py` with the largest IoU on the supports.
Nothing in them is fitted on other episodes.

WORKDIR/seed*/fold*/rule_<name>/ holds what a trained run would leave there: results.json and every
episode's counts. WORKDIR/table_rules.md, .json and .csv: mIoU beside baseline and APANet, and
paired differences to APANet.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.evaluation.metrics import EpisodeCounts
from apanet_jax.evaluation.protocol import Resizing, score
from apanet_jax.models.network import Batch, Network, Parameters
from apanet_jax.models.resize import at_size
from apanet_jax.runs.run import Run, RunMaker
from apanet_jax.runs.scoring import result, trained_heads, write_counts
from apanet_jax.runs.sweep import parts
from apanet_jax.runtime.atomic_files import write_json
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.paper.ablation_report import Table, TableRow, write_table
from experiments.paper.run_lines import APANET, BASELINE
from experiments.paper.thresholds import AT_ZERO, THRESHOLDS
from experiments.paper.training_free import maps

BANDWIDTH, RATIO_SCALE = 0.2, 0.05
"""Of the density ratio in `predict`: its bandwidth, and what its margin is divided by."""
RULES = ("mean", "chosen", "weighted", "ratio", "chosen_ratio", "threshold")
TABLE = Table(
    "",
    "Baseline and APANet together",
    (
        TableRow("baseline", BASELINE),
        TableRow("APANet", APANET, against=BASELINE),
        *(TableRow(f"{name.replace('_', ', ')}: above APANet", f"rule_{name}") for name in RULES),
        TableRow("chosen: above the baseline", "rule_chosen", against=BASELINE),
    ),
    baseline=APANET,
)


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, config="the runs, as they were trained")
    parser.add_argument("--workdir", type=Path, required=True, help="of the runs, for the results")
    parser.add_argument("--report", action="store_true", help="only write the table")
    return parser


def mixed(
    margins: Float[Array, "2 batch height width"],
    known: Float[Array, "thresholds 2 batch"],
    ratio: Float[Array, "batch height width"],
) -> Float[Array, "rules batch height width"]:
    """Returns the margins of each of `RULES`.

    Args:
      margins: of the query, by the baseline and by APANet.
      known: the IoU of both on the supports at each of `THRESHOLDS`, in [0, 1].
      ratio: the density ratio of the query, in the heads' units.
    """
    baseline, apanet = margins
    of_baseline, of_apanet = known[AT_ZERO]
    chosen = jnp.where((of_baseline > of_apanet)[:, None, None], baseline, apanet)
    total = of_baseline + of_apanet
    share = jnp.where(total > 0, of_apanet / jnp.where(total > 0, total, 1), 0.5)[:, None, None]
    found = {
        "mean": margins.mean(0),
        "chosen": chosen,
        "weighted": (1 - share) * baseline + share * apanet,
        "ratio": (apanet + ratio) / 2,
        "chosen_ratio": (chosen + ratio) / 2,
        "threshold": apanet - nearest_best(known[:, 1])[:, None, None],
    }
    return jnp.stack([found[name] for name in RULES])


def nearest_best(known: Float[Array, "thresholds batch"]) -> Float[Array, " batch"]:
    """Returns the threshold of the largest IoU, of equal ones that nearest 0."""
    order = jnp.array(sorted(range(len(THRESHOLDS)), key=lambda k: abs(THRESHOLDS[k])))
    return jnp.array(THRESHOLDS)[order][known[order].argmax(0)]


def left_out(batch: Batch, place: int) -> Batch:
    """Returns an episode batch that asks for one of its supports by the others, or by itself."""
    shot = batch["support_labels"].shape[1]
    others = [k for k in range(shot) if k != place] or [place]
    found = {"support_labels": batch["support_labels"][:, jnp.array(others)]}
    for name in ("middle", "high", "images"):
        if f"support_{name}" in batch:
            given = batch[f"support_{name}"]
            found[f"support_{name}"] = given[:, jnp.array(others)]
            found["query_image" if name == "images" else f"query_{name}"] = given[:, place]
    return found


def soft_iou(
    found: Float[Array, "*batch height width"], share: Float[Array, "batch height width"]
) -> Float[Array, "*batch"]:
    """Returns the IoU of what was found, 0 or 1, with shares of the class; 0 where neither is."""
    both, either = (f(found, share).sum((-1, -2)) for f in (jnp.minimum, jnp.maximum))
    return jnp.where(either > 0, both / jnp.where(either > 0, either, 1), 0)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _scored(
    network: Network, heads: Parameters, backbone: Parameters, batch: Batch, resizing: Resizing
) -> EpisodeCounts:
    """Returns the counts of a batch of episodes by each of `RULES`."""

    def margins(asked):
        logits = jax.vmap(lambda head: network(head, backbone, asked).logits)(heads)
        return logits[..., 1] - logits[..., 0]

    of_query, known = margins(batch), []
    for place in range(batch["support_labels"].shape[1]):
        found = margins(left_out(batch, place)) > jnp.array(THRESHOLDS)[:, None, None, None, None]
        label = batch["support_labels"][:, place]
        share = at_size(label == 1, found.shape[-2:], centred=network.head.centred)
        known.append(soft_iou(found.astype(jnp.float32), share))
    known = jnp.stack(known).mean(0)
    ratio = maps(network, "density_ratio", backbone, batch, (("bandwidth", BANDWIDTH),))
    label, side = batch["original_label"], batch["original_side"]
    margins_of_rules = mixed(of_query, known, ratio / RATIO_SCALE)
    return jax.lax.map(lambda x: score(x, label, side, resizing), margins_of_rules)


def evaluate(runs: Mapping[str, Run], folder: Path) -> list[dict[str, Any]]:
    """Scores all rules on a fold's test episodes; leaves what a run leaves beside its heads.

    Args:
      runs: of the baseline and of APANet.
      folder: holds their heads.
    """
    heads = [trained_heads(runs[name], folder / name)[-1] for name in (BASELINE, APANET)]
    run = runs[APANET]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(head.parameters for head in heads))
    network = dataclasses.replace(run.network, head=run.network.head.for_inference)
    backbone, resizing = run.loaded.backbone_parameters, run.evaluator.resizing
    results: dict[str, list] = {name: [] for name in RULES}
    for shot in run.data.test_shots:
        counted, classes = [], []
        with run.data.test_batches(shot, range(run.data.test_count)) as batches:
            for batch in batches:
                found = jax.device_get(_scored(network, stacked, backbone, batch, resizing))
                counted.append([x[:, batch["valid"]] for x in found])
                classes.append(batch["class_id"][batch["valid"]])
        class_id = np.concatenate(classes)
        counts = [np.concatenate(x, 1) for x in zip(*counted, strict=True)]
        for place, name in enumerate(RULES):
            of_rule = EpisodeCounts(*(x[place] for x in counts))
            row = result(run, heads[1], shot, of_rule, class_id)
            row["image_size"] = run.settings.image_size
            results[name].append(row | {"rule": name})
            write_counts(run, folder / f"rule_{name}", "last", shot, of_rule)
    for name, rows in results.items():
        write_json(folder / f"rule_{name}" / "results.json", rows)
    return [row for rows in results.values() for row in rows]


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Scores every fold and seed, and writes the table."""
    given = arguments().parse_args(argv)
    if missing := {BASELINE, APANET} - set(given.config.variants):
        raise UserError(
            f"the config has no variant {', '.join(sorted(missing))}, expected a baseline and an "
            "apanet: take configs/compare.py"
        )
    maker, groups = RunMaker(), {}
    for part in [] if given.report else parts(given.config):
        groups.setdefault(part.group, {})[part.variant] = part.config
    for group, configs in groups.items():
        runs = {name: maker.make(configs[name]) for name in (BASELINE, APANET)}
        for row in evaluate(runs, given.workdir / group):
            iou = " ".join(f"{name} {x:.1f}" for name, x in row["iou_per_class"].items())
            print(
                f"{group}, {row['rule']}, {row['shot']}-shot: mIoU {row['miou']:.1f} ({iou})",
                flush=True,
            )
    print(write_table(TABLE, given.workdir, given.workdir / "table_rules"))


if __name__ == "__main__":
    main()
