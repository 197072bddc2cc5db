"""Evaluation that embeds each image once, against embedding every episode and against PyTorch.

    python experiments/speed/evaluation_benchmark.py [--repetitions=2] [--sample=40] [--json=FILE]
        --config=configs/pascal.py:records=RECORDS,weights=random,stem=plain,episodes=1000

Three paths score episodes with the same untrained head, in turn, each repetition with episodes of
another seed: ours that embeds every test image once, ours that embeds the images of every episode,
and a loop over the same network in PyTorch, in batches as well. The last two cost the same for each
episode, so they score the first --sample only; what embedding once saves grows with the episodes,
so it scores them all. Nothing of one repetition is kept for the next. Compilation comes first and
is not counted. A row says how many pixels a path counts differently from ours that embeds every
episode, of how many, and the intersection and union of the foreground in the sample of the last
repetition. PyTorch runs on the kind of device that JAX runs on.
"""

import dataclasses
import os
import resource
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from ml_collections import ConfigDict
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.episodes import Episode
from apanet_jax.evaluation.metrics import EpisodeCounts
from apanet_jax.runs.run import Run, RunMaker
from apanet_jax.runtime.devices import replicated
from apanet_jax.runtime.errors import Parser
from apanet_jax.training.train_step import create_state, optimizer
from experiments import harness
from experiments.harness import OURS, Row
from experiments.speed.torch_peer import TorchPeer, fastest_here

ONCE, EVERY, TORCH = "embeds once", "every episode", "PyTorch"


class Subject(NamedTuple):
    """What is timed: one network, twice.

    Attributes:
      run: ours.
      parameters: of its head.
      peer: the same in PyTorch; None where there is none.
    """

    run: Run
    parameters: Any
    peer: TorchPeer | None


class Timed(NamedTuple):
    """One path's repetition.

    Attributes:
      seconds: of the whole.
      episodes: how many were scored.
      counts: of each.
      processor: seconds of all cores together, of this process.
      embedding: of the seconds, those spent on embedding.
    """

    seconds: float
    episodes: int
    counts: EpisodeCounts
    processor: float
    embedding: float = 0.0


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, config="data, backbone, episodes", json=True)
    repetitions = {"type": harness.whole(1), "default": 2}
    parser.add_argument("--repetitions", **repetitions, help="how often each path runs (2)")
    sample = {"type": harness.whole(1), "default": 40}
    parser.add_argument("--sample", **sample, help="episodes of the slower paths (40)")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for each number of shots and path."""
    given = arguments().parse_args(argv)
    config = given.config
    config.features.keep = False
    rows = [
        row
        for shot in config.evaluation.shots
        for row in measure(config, shot, given.repetitions, given.sample)
    ]
    result = harness.environment() | {
        "load_average": os.getloadavg()[0],
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "rows": rows,
    }
    harness.publish(result, markdown(rows), given.json)


def measure(config: ConfigDict, shot: int, repetitions: int, sample: int) -> list[Row]:
    """Returns the rows of all paths at one number of shots."""
    config = config.copy_and_resolve_references()
    config.evaluation.shots = (shot,)
    paths = {ONCE: embed_once, EVERY: embed_every, TORCH: loop_in_torch}
    if config.model.comparison != "conv" or "resnet" not in config.backbone.name:
        del paths[TORCH]
        print(f"no {TORCH}: its peer knows ResNets that compare by conv", file=sys.stderr)
    found: dict[str, list[Timed]] = {path: [] for path in paths}
    # One for all repetitions, so that programs are compiled in the first one alone.
    distinct, maker = [], RunMaker()
    for repetition in range(repetitions + 1):
        with config.unlocked():
            config.evaluation.seed = 321 + repetition
        subject = _subject(config, maker, TORCH in paths)
        scored = min(sample, subject.run.data.test_count)
        if not repetition:
            # The first one compiles; a few episodes are enough for that.
            for path in paths.values():
                path(subject, shot, config.evaluation.batch_size)
            continue
        for name, path in harness.in_turn(paths, repetition):
            episodes = subject.run.data.test_count if name == ONCE else scored
            timed = path(subject, shot, episodes)
            found[name].append(timed)
            each = timed.seconds / episodes
            print(f"{shot}-shot, {name}: {episodes} episodes, {each:.4f} s each", file=sys.stderr)
        planned = list(map(subject.run.data.draw_test(shot), range(subject.run.data.test_count)))
        distinct.append(_distinct(planned))
    return [_row(config, shot, path, found, distinct) for path in paths]


def embed_once(subject: Subject, shot: int, episodes: int) -> Timed:
    """Runs the engine, with nothing embedded before."""
    _embeds_once(subject, True)
    clock = harness.Clock()
    subject.run.evaluator.embed(episodes)
    embedding = clock.seconds
    counts, _ = subject.run.evaluator.count(subject.parameters, shot, episodes)
    timed = Timed(clock.seconds, episodes, counts, clock.processor, embedding)
    subject.run.evaluator.embedded.clear()
    return timed


def _embeds_once(subject: Subject, once: bool) -> None:
    """Has the evaluator take one of its two ways, with nothing embedded before."""
    evaluator = subject.run.evaluator
    evaluator.embedded.clear()
    evaluator.settings = dataclasses.replace(evaluator.settings, embed_once=once)


def embed_every(subject: Subject, shot: int, episodes: int) -> Timed:
    """Runs our straightforward path, which embeds every episode."""
    _embeds_once(subject, False)
    clock = harness.Clock()
    counts, _ = subject.run.evaluator.count(subject.parameters, shot, episodes)
    return Timed(clock.seconds, episodes, counts, clock.processor)


def loop_in_torch(subject: Subject, shot: int, episodes: int) -> Timed:
    """Runs the peer, on batches of the same loader."""
    clock, counted = harness.Clock(), []
    peer = subject.peer.eval()
    with subject.run.data.test_batches(shot, range(episodes)) as batches, torch.inference_mode():
        for batch in batches:
            logits = peer.logits(batch).permute(0, 3, 1, 2)
            for number in np.flatnonzero(batch["valid"]):
                side = int(batch["original_side"][number])
                label = torch.from_numpy(batch["original_label"][number][:side, :side])
                label = label.to(logits.device)
                counted.append(_counts_in_torch(logits[number], label))
    intersection, union = (np.stack(x) for x in zip(*counted, strict=True))
    counts = EpisodeCounts(intersection, union)
    return Timed(clock.seconds, episodes, counts, clock.processor)


def _counts_in_torch(logits, label) -> tuple[np.ndarray, np.ndarray]:
    """Returns one episode's pixels of background and foreground in intersection and union."""
    size = tuple(label.shape)
    large = functional.interpolate(logits[None], size, mode="bilinear", align_corners=True)[0]
    found, known = large[1] > large[0], label != 255
    pairs = [((found == value) & known, (label == value) & known) for value in (0, 1)]
    return (
        np.array([int((a & b).sum()) for a, b in pairs]),
        np.array([int((a | b).sum()) for a, b in pairs]),
    )


def _subject(config: ConfigDict, maker: RunMaker, with_peer: bool) -> Subject:
    """Returns a run and an untrained head that finds about half of what it sees."""
    run = maker.make(config.copy_and_resolve_references())
    state = create_state(
        run.network,
        run.loaded.backbone_parameters,
        config.image_size,
        optimizer(lambda count: 0.0),
        jax.random.key(0),
        run.programs,
    )
    parameters, peer = state.parameters, None
    if with_peer:
        peer, backbone = TorchPeer.like(
            run.network, parameters, backbone_name=config.backbone.name, seed=0
        )
        fastest_here(peer)
        placed = jax.device_put(backbone, replicated(run.mesh))
        run = maker.with_backbone(run, placed)
    with run.data.test_batches(run.data.test_shots[0], range(1)) as batches:
        batch = next(batches)
    logits = jax.jit(run.network)(parameters, run.loaded.backbone_parameters, batch).logits
    output = parameters["comparison"]["output"]
    output = output.get("output", output)
    output["bias"] += np.array([0, -np.median(logits[..., 1] - logits[..., 0])], np.float32)
    if peer is not None:
        with torch.no_grad():
            peer.head.compare[-1].bias.copy_(torch.tensor(np.asarray(output["bias"])))
    return Subject(run, parameters, peer)


def _distinct(episodes: Sequence[Episode]) -> tuple[int, int]:
    """Returns how many images, and how many supports of a class, the episodes have."""
    images = {i for e in episodes for i in (e.query, *e.supports)}
    return len(images), len({(s, e.class_id) for e in episodes for s in e.supports})


def _row(config, shot, path, found, distinct) -> Row:
    each = [timed.seconds / timed.episodes for timed in found[path]]
    differing, compared = zip(
        *(_difference(a.counts, b.counts) for a, b in zip(found[path], found[EVERY], strict=True)),
        strict=True,
    )
    sample = len(found[EVERY][-1].counts.union)
    row = {
        "implementation": TORCH if path == TORCH else OURS,
        "path": path,
        "backbone": config.backbone.name,
        "comparison": config.model.comparison,
        "image_size": config.image_size,
        "shots": shot,
        "episodes": found[path][0].episodes,
        "seconds_per_episode": statistics.median(each),
        "processor_seconds_per_episode": statistics.median(
            timed.processor / timed.episodes for timed in found[path]
        ),
        "intersection": int(found[path][-1].counts.intersection[:sample, 1].sum()),
        "union": int(found[path][-1].counts.union[:sample, 1].sum()),
        "differing": sum(differing),
        "compared": sum(compared),
    } | harness.spread(each)
    if path == ONCE:
        embedding = [timed.embedding for timed in found[path]]
        row["embedding_seconds"] = statistics.median(embedding)
        images, supports = zip(*distinct, strict=True)
        row["images"], row["supports"] = statistics.median(images), statistics.median(supports)
    return row


def _difference(first: EpisodeCounts, second: EpisodeCounts) -> tuple[int, int]:
    """Returns how many pixels differ in the episodes that both have, of how many."""
    both = zip(first, second, strict=True)
    pairs = [(a[: len(b)].astype(int), b[: len(a)].astype(int)) for a, b in both]
    return sum(int(np.abs(a - b).sum()) for a, b in pairs), sum(int(b.sum()) for _, b in pairs)


def markdown(rows: list[Row]) -> str:
    """Returns a line a row, with how many times as fast embedding once is."""
    once = {row["shots"]: row["seconds"] for row in rows if row["path"] == ONCE}
    lines = [
        (
            f"{row['backbone']}, {row['comparison']}",
            row["shots"],
            row["path"],
            row["episodes"],
            f"{row['seconds']:.4f} ({row['seconds_min']:.4f} to {row['seconds_max']:.4f})",
            f"{row['processor_seconds_per_episode']:.4f}",
            f"{row['seconds'] / once[row['shots']]:.1f}",
            f"{row['differing']} of {row['compared']}",
        )
        for row in rows
    ]
    heads = ("backbone, comparison", "shots", "", "episodes", "seconds an episode", "processor")
    return harness.table((*heads, f"over {ONCE}", "pixels counted differently"), lines)


if __name__ == "__main__":
    main()
