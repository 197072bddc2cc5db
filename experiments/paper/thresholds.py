"""What the class-agnostic branch calls foreground, and what a higher threshold makes of its gain.

    python experiments/paper/thresholds.py --workdir=WORKDIR [--base_episodes=150] [--counted] \
        --config=configs/compare.py:records=RECORDS,seeds=0,features.seed=0

WORKDIR holds the runs of that config, trained. Every head of a fold and seed is scored at several
thresholds of its logit (foreground above background; 0 is what inference takes) on the test
episodes of the fold's own classes, which are novel to it, and on the first `--base_episodes` of
every other fold's, whose classes it was trained on, other images of them. The threshold with the
highest mIoU over those is chosen at each number of supports, and applied to the novel classes.

WORKDIR/thresholds.md and .json: mIoU by threshold on base and novel classes; by novel class IoU,
precision, recall and the share of the pixels that are called foreground, at 0 and at the chosen
threshold, beside the share that is: the IoU of calling everything foreground.

With `--counted` nothing is scored: WORKDIR/called.md is the table by class at 0, made of the files
of episodes that runs with `write_episodes=True` left.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.evaluation.protocol import Resizing, resize_to_label
from apanet_jax.models.network import Batch, Network, Parameters
from apanet_jax.runs.run import Run, RunMaker
from apanet_jax.runs.scoring import trained_heads
from apanet_jax.runs.sweep import parts
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness

THRESHOLDS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
AT_ZERO = THRESHOLDS.index(0.0)
_TRUE, _FOUND, _BOTH, _PIXELS = range(4)

Sums = Int[np.ndarray, "thresholds 4"]
"""Pixels that are foreground, called so, both, and valid."""


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, config="the runs, as they were trained")
    parser.add_argument("--workdir", type=Path, required=True, help="of the runs, for the tables")
    episodes = {"type": harness.whole(1), "default": 150}
    parser.add_argument("--base_episodes", **episodes, help="of each fold of base classes")
    counted = "the table by class alone, from files of episodes"
    parser.add_argument("--counted", action="store_true", help=counted)
    return parser


@functools.partial(jax.jit, static_argnums=(0, 4))
def _pixels(
    network: Network,
    heads: Parameters,
    backbone: Parameters,
    batch: Batch,
    resizing: Resizing,
) -> Int[Array, "heads thresholds batch 4"]:
    label, side = batch["original_label"], batch["original_side"]
    logits = jax.vmap(lambda head: network(head, backbone, batch).logits)(heads)
    valid, truth = label != 255, label == 1

    def one_head(difference: Float[Array, "batch height width"]):
        resized = resize_to_label(difference, side, label.shape[-1], resizing)

        def at(threshold):
            found = (resized > threshold) & valid
            masks = (truth, found, found & truth, valid)
            return jnp.stack([x.sum((1, 2), dtype=jnp.int32) for x in masks], -1)

        return jax.lax.map(at, jnp.array(THRESHOLDS))

    return jax.lax.map(one_head, logits[..., 1] - logits[..., 0])


def count(run: Run, network: Network, heads: Parameters, shot: int, episodes: int) -> list[dict]:
    """Returns each head's sums by class over a run's first test episodes with `shot` supports."""
    backbone, resizing = run.loaded.backbone_parameters, run.evaluator.resizing
    sums = [{} for _ in jax.tree.leaves(heads)[0]]
    with run.data.test_batches(shot, range(min(episodes, run.data.test_count))) as batches:
        for batch in batches:
            found = jax.device_get(_pixels(network, heads, backbone, batch, resizing))
            for place in np.flatnonzero(batch["valid"]):
                name = run.records.class_names[batch["class_id"][place] - 1]
                for head, of_head in enumerate(sums):
                    of_head[name] = of_head.get(name, 0) + found[head, :, place].astype(np.int64)
    return sums


def iou(sums: Sums) -> Float[np.ndarray, " thresholds"]:
    """Returns the IoU in percent at each threshold."""
    union = sums[:, _TRUE] + sums[:, _FOUND] - sums[:, _BOTH]
    return 100 * sums[:, _BOTH] / np.maximum(union, 1)


def rows_of(run: Run, variants: Sequence[tuple[str, Parameters]], bases: Sequence[Run], own: int):
    """Yields what each variant scores with each number of supports: see `main`.

    Args:
      run: of the fold.
      variants: names and heads.
      bases: runs of the other folds, whose classes the heads were trained on.
      own: test episodes of each of those.
    """
    inference = dataclasses.replace(run.network, head=run.network.head.for_inference)
    heads = jax.tree.map(lambda *x: jnp.stack(x), *(head for _, head in variants))
    for shot in run.data.test_shots:
        novel = count(run, inference, heads, shot, run.data.test_count)
        base: list[dict] = [{} for _ in variants]
        for other in bases:
            found = count(other, inference, heads, shot, own)
            base = [a | b for a, b in zip(base, found, strict=True)]
        for place, (name, _) in enumerate(variants):
            on_base = np.mean([iou(x) for x in base[place].values()], 0)
            yield {
                "variant": name,
                "fold": run.settings.fold,
                "seed": run.settings.seed,
                "shot": shot,
                "chosen": THRESHOLDS[int(on_base.argmax())],
                "base": on_base.round(2).tolist(),
                "novel": np.mean([iou(x) for x in novel[place].values()], 0).round(2).tolist(),
                "classes": {k: v.tolist() for k, v in sorted(novel[place].items())},
            }


def _means(rows: Sequence[dict[str, Any]], variant: str, shot: int) -> list[list[Any]]:
    """Returns the lines of mIoU by threshold: on base classes, on novel ones, and as chosen."""
    own = [row for row in rows if (row["variant"], row["shot"]) == (variant, shot)]
    lines = []
    for name in ("base", "novel"):
        mean = np.mean([row[name] for row in own], 0)
        chosen = np.mean([row[name][THRESHOLDS.index(row["chosen"])] for row in own])
        lines.append([variant, shot, name, *(f"{x:.1f}" for x in mean), f"{chosen:.1f}"])
    return lines


def counted(run: Run, variant: str, folder: Path) -> list[dict[str, Any]]:
    """Returns a row for each number of supports, at the threshold 0, of a run's files of episodes.

    Args:
      run: of the variant.
      variant: its name.
      folder: of the run.
    """
    split, rows = run.records.split("val"), []
    images = {name: number for number, name in enumerate(split.names)}
    for shot in run.data.test_shots:
        classes: dict[str, np.ndarray] = {}
        path = folder / "episodes" / f"last_{shot}shot.jsonl"
        if not path.exists():
            raise UserError(f"{path} is missing: score the run with write_episodes=True")
        for line in map(json.loads, path.read_text().splitlines()):
            class_id = run.records.class_names.index(line["class"]) + 1
            true = int(split.areas[images[line["query"]], class_id])
            (right, both), (_, union) = line["intersection"], line["union"]
            pixels = np.array([true, union - true + both, both, union + right])
            classes[line["class"]] = classes.get(line["class"], 0) + pixels
        of_class = {name: [sums.tolist()] for name, sums in classes.items()}
        rows.append({"variant": variant, "shot": shot, "classes": of_class})
    return rows


def _by_class(rows: Sequence[dict[str, Any]]) -> list[list[Any]]:
    sums: dict[tuple, np.ndarray] = {}
    for row in rows:
        places = [0]
        if "chosen" in row:
            places = [AT_ZERO, THRESHOLDS.index(row["chosen"])]
        for name, found in row["classes"].items():
            key = (name, row["variant"], row["shot"])
            sums[key] = sums.get(key, 0) + np.array(found)[places]
    lines = []
    for (name, variant, shot), of_class in sorted(sums.items()):
        true, found, both, pixels = of_class.T
        shares = zip(
            iou(of_class),
            100 * both / np.maximum(found, 1),
            100 * both / true,
            100 * found / pixels,
            strict=True,
        )
        numbers = [" / ".join(f"{x:.1f}" for x in pair) for pair in zip(*shares, strict=True)]
        lines.append([name, variant, shot, *numbers, f"{100 * true[0] / pixels[0]:.1f}"])
    return lines


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Returns both tables."""
    names = list(dict.fromkeys(row["variant"] for row in rows))
    shots = sorted({row["shot"] for row in rows})
    means = [line for name in names for shot in shots for line in _means(rows, name, shot)]
    heads = ["mIoU, by threshold", "shot", "classes", *THRESHOLDS, "chosen on base"]
    return harness.table(heads, means) + "\n" + class_table(rows, "at 0 / as chosen")


def class_table(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Returns the table by class."""
    heads = [title, "", "shot", "IoU", "precision", "recall", "found", "true"]
    return harness.table(heads, _by_class(rows))


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Scores every fold's heads, and writes the tables."""
    given = arguments().parse_args(argv)
    maker = RunMaker()
    groups: dict[str, list[tuple[str, Run]]] = {}
    for part in parts(given.config):
        groups.setdefault(part.group, []).append((part.variant, maker.make(part.config)))
    rows: list[dict[str, Any]] = []
    if given.counted:
        for name, group in groups.items():
            for variant, run in group:
                rows += counted(run, variant, given.workdir / name / variant)
        text = class_table(rows, "percent")
        write_bytes(given.workdir / "called.md", text.encode())
        print(text)
        return
    for name, group in groups.items():
        variants = [
            (variant, trained_heads(run, given.workdir / name / variant)[-1].parameters)
            for variant, run in group
        ]
        run = group[0][1]
        folds = set(range(len(run.records.folds))) - {run.settings.fold}
        bases = [maker.make(dataclasses.replace(run.settings, fold=fold)) for fold in folds]
        if not bases:
            raise UserError(
                f"{run.records.directory} has one fold, expected several: the threshold is chosen "
                "on the classes of the others"
            )
        rows += rows_of(run, variants, bases, given.base_episodes)
        print(f"{name} is scored", flush=True)
        result = {"thresholds": THRESHOLDS, "rows": rows} | harness.environment()
        write_json(given.workdir / "thresholds.json", result)
    text = page(rows)
    write_bytes(given.workdir / "thresholds.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
