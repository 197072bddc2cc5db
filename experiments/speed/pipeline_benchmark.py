"""Training episodes a second: this package's pipeline against PyTorch's DataLoader.

    python -m apanet_jax.prepare folder --source=DIR --output=RECORDS
    python experiments/speed/pipeline_benchmark.py --source=DIR --records=RECORDS [--size=473]
        [--longer_side=0] [--batch=4] [--shot=1] [--min_area=2048] [--workers=1,2] [--batches=40]
        [--repetitions=3] [--json=FILE]

All load the same episodes of the same images, in turn, other ones each repetition. Starting the
worker processes and filling the queues comes first and is not counted; nothing is done with the
batches. The DataLoader's Dataset makes PFENet's transforms with OpenCV:

- `as published`: image files, transformed in float32, made tensors and normalised there;
- `uint8`: image files, transformed and handed out in uint8, as this package does;
- `uint8, records`: the same with the images of our records.

A core's episodes a second are those for a second of processor time, of the main process and its
workers together, so that what else runs on the machine changes little. The estimate for 16 cores
is arithmetic: 16 times a core's.
"""

import argparse
import functools
import importlib.metadata
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import cv2
import numpy as np
import torch
from PIL import Image

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.episodes import Episode, draw_training, episode_lists
from apanet_jax.data.loader import batches, load_training_episode
from apanet_jax.data.records.reading import RecordSplit, open_records
from apanet_jax.data.transforms import MEAN_COLOUR, Augmentation
from apanet_jax.runtime.errors import Parser
from experiments import harness
from experiments.harness import OURS, Row

PUBLISHED, PLAIN, SAME_INPUT = (
    "DataLoader, as published",
    "DataLoader, uint8",
    "DataLoader, uint8, records",
)
DEVIATION = 255 * np.array([0.229, 0.224, 0.225], np.float32)
CORES = 16

_TICKS = os.sysconf("SC_CLK_TCK")
"""Ticks of the clock of processor time, a second."""

Pixels = tuple[np.ndarray, np.ndarray]
"""An image and its label map."""


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, json=True)
    folder = {"type": Path, "required": True}
    parser.add_argument("--source", **folder, help="a folder in VOC's layout")
    parser.add_argument("--records", **folder, help="what prepare made of it")
    for name, least, default, meaning in (
        ("size", 33, 473, "side of the crops"),
        ("longer_side", 0, 0, "resize images to this first; 0: no"),
        ("batch", 1, 4, "episodes a batch"),
        ("shot", 1, 1, "supports an episode"),
        ("min_area", 0, 2048, "pixels of a class that make its images"),
        ("batches", 1, 40, "timed batches of each implementation"),
        ("repetitions", 1, 3, "turns"),
    ):
        number = {"type": harness.whole(least), "default": default}
        parser.add_argument(f"--{name}", **number, help=f"{meaning} ({default})")
    parser.add_argument("--workers", type=harness.numbers, default="1,2", help="processes (1,2)")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for each implementation and number of workers."""
    given = arguments().parse_args(argv)
    rows = measure(given)
    result = harness.environment() | {"rows": rows}
    for name in ("grain", "opencv-python-headless"):
        result["versions"][name] = importlib.metadata.version(name)
    harness.publish(result, markdown(rows), given.json)


def measure(given: argparse.Namespace) -> list[Row]:
    """Times all implementations in turn; returns a row for each and each number of workers."""
    records = open_records(given.records)
    split = records.split("train")
    class_ids = tuple(range(1, len(records.class_names) + 1))
    lists = episode_lists(split, class_ids, shot=given.shot, min_area=given.min_area)
    draw = functools.partial(draw_training, lists, seed=0, shot=given.shot)
    settings = Augmentation(size=given.size, longer_side=given.longer_side)
    load = functools.partial(load_training_episode, split, draw, settings, seed=0)
    files = functools.partial(from_files, given.source, split.names)
    kept = functools.partial(from_records, split)
    implementations: dict[str, Callable[[int, int, int], Iterator]] = {
        OURS: functools.partial(our_batches, load),
        PUBLISHED: functools.partial(peer_batches, files, draw, settings, True),
        PLAIN: functools.partial(peer_batches, files, draw, settings, False),
        SAME_INPUT: functools.partial(peer_batches, kept, draw, settings, False),
    }
    measured: dict[tuple[str, int], list[tuple[float, float]]] = {}
    start = 0
    for _ in range(given.repetitions):
        for workers in given.workers:
            # Enough that the queues in front of each are as full as they will be.
            first = 4 * workers
            for name, make in implementations.items():
                loaded = make(given.batch, start, workers)
                rates = rate(loaded, first, given.batches, given.batch)
                measured.setdefault((name, workers), []).append(rates)
                print(f"{name}, {workers} workers: {rates[0]:.2f}/s", file=sys.stderr, flush=True)
            start += first + given.batches
    settings = {name: getattr(given, name) for name in ("size", "longer_side", "batch", "shot")}
    return [
        {"implementation": name, "workers": workers}
        | settings
        | {
            "episodes_per_second": [wall for wall, _ in rates],
            "episodes_per_core_second": [core for _, core in rates],
        }
        for (name, workers), rates in measured.items()
    ]


def rate(loaded: Iterator, first: int, count: int, batch: int) -> tuple[float, float]:
    """Returns episodes a second, and for a second of processor time, after `first` batches."""
    for _ in range(first):
        next(loaded)
    started, used = time.perf_counter(), processor_seconds()
    for _ in range(count):
        next(loaded)
    seconds, used = time.perf_counter() - started, processor_seconds() - used
    loaded.close()
    episodes = count * batch
    # Of few small images the clock of processor time may not have ticked.
    return episodes / seconds, episodes / max(used, 1 / _TICKS)


def processor_seconds() -> float:
    """Returns the processor time of this process and of its children that run (on Linux)."""

    def of(process: int) -> float:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    tasks = Path("/proc/self/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return sum(map(of, [os.getpid(), *children]))


def our_batches(load, batch: int, start: int, workers: int) -> Iterator:
    """Yields the batches from number `start` on, as training does."""
    with batches(load, count=None, batch_size=batch, start=start, workers=workers) as iterator:
        yield from iterator


def peer_batches(
    read, draw, settings: Augmentation, published: bool, batch: int, start: int, workers: int
) -> Iterator:
    """Yields the batches from number `start` on, by a DataLoader."""
    yield from torch.utils.data.DataLoader(
        Episodes(read, draw, settings, start * batch, published),
        batch_size=batch,
        num_workers=workers,
        worker_init_fn=without_threads,
        multiprocessing_context="spawn",
    )


def without_threads(_worker: int) -> None:
    """Leaves OpenCV one thread a process, as the published code does."""
    cv2.setNumThreads(0)


class Episodes(torch.utils.data.Dataset):
    """Training episodes as users of the published code write them.

    Attributes:
      read: from an image's number to the image and its label map.
      draw: from an episode's number to the episode.
      settings: of the transforms.
      start: number of the first episode.
      published: whether images are transformed in float32, and normalised.
    """

    def __init__(self, read, draw, settings: Augmentation, start: int, published: bool):
        self.read, self.draw, self.settings = read, draw, settings
        self.start, self.published = start, published

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, number: int) -> tuple:
        episode: Episode = self.draw(self.start + number)
        query, label = self._pixels(episode.query, episode.class_id)
        supports = [self._pixels(s, episode.class_id) for s in episode.supports]
        images, labels = (torch.stack(part) for part in zip(*supports, strict=True))
        return query, label, images, labels, episode.class_id

    def _pixels(self, number: int, class_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = self.read(number)
        binary = np.where(label == IGNORE, IGNORE, label == class_id).astype(np.uint8)
        if not self.published:
            return tuple(torch.from_numpy(x) for x in transformed(image, binary, self.settings))
        image, binary = transformed(image.astype(np.float32), binary, self.settings)
        tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
        for channel, mean, deviation in zip(tensor, MEAN_COLOUR, DEVIATION, strict=True):
            channel.sub_(mean).div_(float(deviation))
        return tensor, torch.from_numpy(binary).long()


def transformed(image: np.ndarray, label: np.ndarray, settings: Augmentation) -> Pixels:
    """Scales, rotates, blurs, mirrors, pads and crops, one after the other, with OpenCV."""
    random = np.random.default_rng()
    height, width = label.shape
    factor = random.uniform(*settings.scale)
    if settings.longer_side:
        factor *= settings.longer_side / max(height, width)
    size = (round(width * factor), round(height * factor))
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    if random.random() < settings.rotation_probability:
        angle = random.uniform(-settings.rotation, settings.rotation)
        turn = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), angle, 1)
        image = cv2.warpAffine(image, turn, size, flags=cv2.INTER_LINEAR, borderValue=MEAN_COLOUR)
        label = cv2.warpAffine(label, turn, size, flags=cv2.INTER_NEAREST, borderValue=IGNORE)
    if random.random() < settings.blur_probability:
        image = cv2.GaussianBlur(image, (5, 5), 0)
    if random.random() < settings.mirror_probability:
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)
    down, across = (max(settings.size - n, 0) for n in label.shape)
    if down or across:
        border = (down // 2, down - down // 2, across // 2, across - across // 2)
        border += (cv2.BORDER_CONSTANT,)
        image = cv2.copyMakeBorder(image, *border, value=MEAN_COLOUR)
        label = cv2.copyMakeBorder(label, *border, value=IGNORE)
    return cropped(image, label, random, settings.size)


def cropped(image, label, random: np.random.Generator, size: int) -> Pixels:
    """Cuts a random square, drawn again until most of the foreground is in it."""
    everything = np.sum(label == 1)
    for _ in range(31):
        top, left = (random.integers(n - size + 1) for n in label.shape)
        window = np.s_[top : top + size, left : left + size]
        if np.sum(label[window] == 1) >= 0.85 * everything:
            break
    return np.ascontiguousarray(image[window]), np.ascontiguousarray(label[window])


def from_files(source: Path, names: list[str], number: int) -> Pixels:
    """Reads a JPEG with OpenCV, and a palette PNG with Pillow."""
    image = cv2.imread(str(source / "JPEGImages" / f"{names[number]}.jpg"), cv2.IMREAD_COLOR)
    label = Image.open(source / "SegmentationClass" / f"{names[number]}.png")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.array(label)


def from_records(split: RecordSplit, number: int) -> Pixels:
    """Reads an image of our records."""
    data = split[number]
    return data["image"], data["label"]


def markdown(rows: list[Row]) -> str:
    """Returns a line a row, with our rate over each."""
    ours = {row["workers"]: row for row in rows if row["implementation"] == OURS}
    lines = []
    for row in rows:
        wall, core = row["episodes_per_second"], row["episodes_per_core_second"]
        reference = ours[row["workers"]]["episodes_per_core_second"]
        ratio = statistics.median(a / b for a, b in zip(reference, core, strict=True))
        lines.append(
            (
                f"{row['size']}x{row['size']}, {row['shot']} shot",
                row["workers"],
                row["implementation"],
                f"{statistics.median(wall):.1f} ({min(wall):.1f} to {max(wall):.1f})",
                f"{statistics.median(core):.1f} ({min(core):.1f} to {max(core):.1f})",
                f"{ratio:.2f}",
                f"{CORES * statistics.median(core):.0f}",
            )
        )
    heads = ("images", "workers", "", "episodes/s: median (min to max)")
    heads += ("for a second of processor time", "ours over it")
    return harness.table((*heads, f"{CORES} cores: episodes/s, as arithmetic"), lines)


if __name__ == "__main__":
    main()
