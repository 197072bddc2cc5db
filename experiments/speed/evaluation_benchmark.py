"""Evaluation that embeds once against the paths that embed every episode anew.

    python experiments/speed/evaluation_benchmark.py [--repetitions=2] [--sample=40] [--json=FILE]
        --config=configs/pascal.py:records=RECORDS,weights=random,stem=plain,episodes=1000

Three paths score episodes with the same untrained head, in turns, each repetition with episodes of
another seed: ours that embeds every test picture once, ours that embeds every episode anew, and a
loop over the same network in PyTorch, batch by batch as well. The last two cost the same for each
episode, so they score the first --sample only; embedding once pays off with the number of episodes,
so it scores them all. Nothing of one repetition is kept for the next. Compiling comes first and is
not counted. A row says how many pixels a path counts otherwise than ours that embeds anew, of how
many, and what it finds of the foreground in the sample of the last repetition. PyTorch runs on the
kind of device that jax runs on.
"""

import dataclasses
import itertools
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from absl import flags
from ml_collections import ConfigDict
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.config.flags import config_flag, config_of, run_command
from apanet_jax.data.episodes import Episode
from apanet_jax.evaluation.metrics import EpisodeCounts
from apanet_jax.runs.run import Run, forget_test_features, make_run
from apanet_jax.runtime.atomic_files import write_json
from apanet_jax.runtime.devices import replicated
from apanet_jax.training.train_step import create_state, optimizer
from experiments.harness import environment
from experiments.speed.torch_peer import TorchPeer, fastest_here

_CONFIG = config_flag("Settings: data, backbone, episodes.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 2, "How often each path runs.", lower_bound=1)
_SAMPLE = flags.DEFINE_integer("sample", 40, "Episodes of the slower paths.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Write the result there, too.")

ONCE, ANEW, TORCH = "embeds once", "every episode", "PyTorch"

Row = dict[str, Any]


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
      embedding: of the seconds, those spent on embedding.
    """

    seconds: float
    episodes: int
    counts: EpisodeCounts
    embedding: float = 0.0


def main() -> None:
    """Prints a row for each number of shots and path."""
    config, _ = config_of(_CONFIG)
    config.features.keep = False
    rows = list(itertools.chain(*(measure(config, shot) for shot in config.evaluation.shots)))
    result = environment() | {
        "load_average": os.getloadavg()[0],
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "rows": rows,
    }
    print(json.dumps(result, indent=2))
    if _JSON.value:
        write_json(Path(_JSON.value), result)


def measure(config: ConfigDict, shot: int) -> list[Row]:
    """Returns the rows of all paths at one number of shots."""
    config = config.copy_and_resolve_references()
    config.evaluation.shots = (shot,)
    if config.model.comparison == "conv" and "resnet" in config.backbone.name:
        paths = {ONCE: embed_once, ANEW: embed_anew, TORCH: loop_in_torch}
    else:
        paths = {ONCE: embed_once, ANEW: embed_anew}
        print(f"no {TORCH}: its peer knows ResNets that compare by conv", file=sys.stderr)
    found: dict[str, list[Timed]] = {path: [] for path in paths}
    distinct = []
    for repetition in range(_REPETITIONS.value + 1):
        with config.unlocked():
            config.evaluation.seed = 321 + repetition
        subject = _subject(config, TORCH in paths)
        sample = min(_SAMPLE.value, subject.run.test_count)
        if not repetition:
            # The first one compiles; a few episodes are enough for that.
            for path in paths.values():
                path(subject, shot, config.evaluation.batch_size)
            continue
        for name, path in _in_turn(paths, repetition):
            episodes = subject.run.test_count if name == ONCE else sample
            found[name].append(path(subject, shot, episodes))
            _tell(shot, name, found[name][-1])
        planned = list(map(subject.run.draw_test(shot), range(subject.run.test_count)))
        distinct.append(_distinct(planned))
    rows = [_row(config, shot, path, found, distinct) for path in paths]
    for row in rows[1:]:
        ratio = row["seconds_per_episode"] / rows[0]["seconds_per_episode"]
        print(f"{shot}-shot: {ONCE} is {ratio:.1f} times as fast as {row['path']}", flush=True)
    return rows


def embed_once(subject: Subject, shot: int, episodes: int) -> Timed:
    """Runs the engine, with nothing embedded before."""
    forget_test_features()
    subject.run.config.evaluation.embed_once = True
    started = time.perf_counter()
    subject.run.embed_test_pictures(episodes)
    embedded = time.perf_counter()
    counts, _ = subject.run.count_episodes(subject.parameters, shot, episodes)
    ended = time.perf_counter()
    forget_test_features()
    return Timed(ended - started, episodes, counts, embedded - started)


def embed_anew(subject: Subject, shot: int, episodes: int) -> Timed:
    """Runs our straightforward path."""
    subject.run.config.evaluation.embed_once = False
    started = time.perf_counter()
    counts, _ = subject.run.count_episodes(subject.parameters, shot, episodes)
    return Timed(time.perf_counter() - started, episodes, counts)


def loop_in_torch(subject: Subject, shot: int, episodes: int) -> Timed:
    """Runs the peer, on batches of the same loader."""
    started = time.perf_counter()
    counted = []
    peer = subject.peer.eval()
    with subject.run.evaluation_batches(shot, episodes) as batches, torch.inference_mode():
        for batch in batches:
            logits = peer.logits(batch).permute(0, 3, 1, 2)
            for number in np.flatnonzero(batch["valid"]):
                side = int(batch["original_side"][number])
                label = torch.from_numpy(batch["original_label"][number][:side, :side])
                label = label.to(logits.device)
                counted.append(_counts_in_torch(logits[number], label))
    intersection, union = (np.stack(x) for x in zip(*counted, strict=True))
    return Timed(time.perf_counter() - started, episodes, EpisodeCounts(intersection, union))


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


def _in_turn(paths: dict[str, Callable], repetition: int) -> list[tuple[str, Callable]]:
    """Returns the paths in an order that changes, so that none is always the first."""
    items = list(paths.items())
    shift = repetition % len(items)
    return items[shift:] + items[:shift]


def _subject(config: ConfigDict, with_peer: bool) -> Subject:
    """Returns a run and an untrained head that finds about half of what it sees."""
    run = make_run(config.copy_and_resolve_references())
    state = create_state(
        run.network,
        run.backbone_parameters,
        config.image_size,
        optimizer(lambda count: 0.0),
        jax.random.key(0),
    )
    parameters, peer = state.parameters, None
    if with_peer:
        peer, backbone = TorchPeer.like(
            run.network, parameters, backbone_name=config.backbone.name, seed=0
        )
        fastest_here(peer)
        placed = jax.device_put(backbone, replicated(run.mesh))
        run = dataclasses.replace(run, backbone_parameters=placed)
    with run.evaluation_batches(run.test_shots[0], 1) as batches:
        batch = next(batches)
    logits = jax.jit(run.network)(parameters, run.backbone_parameters, batch).logits
    output = parameters["comparison"]["output"]
    output = output.get("output", output)
    output["bias"] += np.array([0, -np.median(logits[..., 1] - logits[..., 0])], np.float32)
    if peer is not None:
        with torch.no_grad():
            peer.head.compare[-1].bias.copy_(torch.tensor(np.asarray(output["bias"])))
    return Subject(run, parameters, peer)


def _distinct(episodes: Sequence[Episode]) -> tuple[int, int]:
    """Returns how many pictures, and how many supports of a class, the episodes have."""
    pictures = {p for e in episodes for p in (e.query, *e.supports)}
    return len(pictures), len({(s, e.class_id) for e in episodes for s in e.supports})


def _tell(shot: int, path: str, timed: Timed) -> None:
    each = timed.seconds / timed.episodes
    print(f"{shot}-shot, {path}: {timed.episodes} episodes, {each:.4f} s each", flush=True)


def _row(config, shot, path, found, distinct) -> Row:
    each = [timed.seconds / timed.episodes for timed in found[path]]
    differing, compared = zip(
        *(_difference(a.counts, b.counts) for a, b in zip(found[path], found[ANEW], strict=True)),
        strict=True,
    )
    sample = len(found[ANEW][-1].counts.union)
    row = {
        "path": path,
        "backbone": config.backbone.name,
        "comparison": config.model.comparison,
        "image_size": config.image_size,
        "shots": shot,
        "episodes": found[path][0].episodes,
        "seconds_per_episode": statistics.median(each),
        "fastest": min(each),
        "slowest": max(each),
        "intersection": int(found[path][-1].counts.intersection[:sample, 1].sum()),
        "union": int(found[path][-1].counts.union[:sample, 1].sum()),
        "differing": sum(differing),
        "compared": sum(compared),
    }
    if path == ONCE:
        embedding = [timed.embedding for timed in found[path]]
        row["embedding_seconds"] = statistics.median(embedding)
        pictures, supports = zip(*distinct, strict=True)
        row["pictures"], row["supports"] = statistics.median(pictures), statistics.median(supports)
    return row


def _difference(first: EpisodeCounts, second: EpisodeCounts) -> tuple[int, int]:
    """Returns how many pixels differ in the episodes that both have, of how many."""
    both = zip(first, second, strict=True)
    pairs = [(a[: len(b)].astype(int), b[: len(a)].astype(int)) for a, b in both]
    return sum(int(np.abs(a - b).sum()) for a, b in pairs), sum(int(b.sum()) for _, b in pairs)


if __name__ == "__main__":
    run_command(main)
