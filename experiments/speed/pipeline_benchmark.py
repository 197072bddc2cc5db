"""Training episodes a second: this package's pipeline against PyTorch's DataLoader.

    python -m apanet_jax.prepare folder --source=DIR --output=RECORDS
    python experiments/speed/pipeline_benchmark.py --source=DIR --records=RECORDS [--size=473]
        [--longer_side=0] [--batch=4] [--shot=1] [--min_area=2048] [--workers=1,2] [--batches=40]
        [--repetitions=3] [--json=FILE] [--markdown=FILE]

All load the same episodes of the same pictures, in turn, other ones each repetition. Starting the
worker processes and filling the queues comes first and is not counted; nothing is done with the
batches. The DataLoader's Dataset makes PFENet's transforms with OpenCV:

- `as published`: picture files, transformed in float32, made tensors and normalised there;
- `uint8`: picture files, transformed and handed out in uint8, as this package does;
- `uint8, records`: the same with the pictures of our records.

A core's episodes a second are those for a second of processor time, of the main process and its
workers together, so that what else runs on the machine changes little. The estimate for 16 cores
is arithmetic: 16 times a core's.
"""

import functools
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import cv2
import numpy as np
import torch
from absl import flags
from PIL import Image

from apanet_jax.config.flags import run_command
from apanet_jax.data.episodes import Episode, draw_training, episode_lists
from apanet_jax.data.loader import batches, load_training_episode
from apanet_jax.data.records import RecordSplit, open_records
from apanet_jax.data.transforms import IGNORE, MEAN_COLOUR, Augmentation
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.errors import UserError

OURS = "apanet_jax"
PUBLISHED, PLAIN, SAME_INPUT = (
    "DataLoader, as published",
    "DataLoader, uint8",
    "DataLoader, uint8, records",
)
NAMES = (OURS, PUBLISHED, PLAIN, SAME_INPUT)
DEVIATION = 255 * np.array([0.229, 0.224, 0.225], np.float32)
CORES = 16

_TICKS = os.sysconf("SC_CLK_TCK")
"""Ticks of the clock of processor time, a second."""

_SOURCE = flags.DEFINE_string("source", None, "A folder in VOC's layout.")
_RECORDS = flags.DEFINE_string("records", None, "What prepare made of it.")
_SIZE = flags.DEFINE_integer("size", 473, "Side of the crops.", lower_bound=33)
_LONGER_SIDE = flags.DEFINE_integer("longer_side", 0, "Resize pictures to this first; 0: no.")
_BATCH = flags.DEFINE_integer("batch", 4, "Episodes a batch.", lower_bound=1)
_SHOT = flags.DEFINE_integer("shot", 1, "Supports an episode.", lower_bound=1)
_MIN_AREA = flags.DEFINE_integer("min_area", 2048, "Pixels of a class that make its pictures.")
_WORKERS = flags.DEFINE_list("workers", ["1", "2"], "Numbers of worker processes.")
_BATCHES = flags.DEFINE_integer("batches", 40, "Timed batches of everybody.", lower_bound=1)
_REPETITIONS = flags.DEFINE_integer("repetitions", 3, "Turns.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Write the result there, too.")
_MARKDOWN = flags.DEFINE_string("markdown", None, "Write the table there, too.")

Picture = tuple[np.ndarray, np.ndarray]
Row = dict[str, Any]


def main() -> None:
    """Prints a row for everybody and each number of workers."""
    if not _SOURCE.value or not _RECORDS.value:
        raise UserError("--source=DIR and --records=RECORDS are needed: a folder and its records")
    if not all(text.isdigit() and int(text) for text in _WORKERS.value):
        raise UserError(f"--workers={','.join(_WORKERS.value)}: expected numbers above 0")
    rows = measure()
    versions = ("grain", "torch", "opencv-python-headless", "numpy")
    result = {
        "device": f"{os.cpu_count()} cores ({platform.machine()})",
        "versions": {name: importlib.metadata.version(name) for name in versions},
        "rows": rows,
    }
    table = markdown(rows)
    print(table)
    if _JSON.value:
        write_json(Path(_JSON.value), result)
    if _MARKDOWN.value:
        write_bytes(Path(_MARKDOWN.value), table.encode())


def measure() -> list[Row]:
    """Times everybody in turn, and returns a row for each and each number of workers."""
    records = open_records(Path(_RECORDS.value))
    split = records.split("train")
    class_ids = tuple(range(1, len(records.class_names) + 1))
    lists = episode_lists(split, class_ids, shot=_SHOT.value, min_area=_MIN_AREA.value)
    draw = functools.partial(draw_training, lists, seed=0, shot=_SHOT.value)
    settings = Augmentation(size=_SIZE.value, longer_side=_LONGER_SIDE.value)
    load = functools.partial(load_training_episode, split, draw, settings, seed=0)
    everybody: dict[str, Callable[[int, int], Iterator]] = {
        OURS: functools.partial(our_batches, load),
        PUBLISHED: _peer(files(split), draw, settings, published=True),
        PLAIN: _peer(files(split), draw, settings, published=False),
        SAME_INPUT: _peer(functools.partial(from_records, split), draw, settings, published=False),
    }
    measured: dict[tuple[str, int], list[tuple[float, float]]] = {}
    start = 0
    for _ in range(_REPETITIONS.value):
        for workers in map(int, _WORKERS.value):
            # Enough that the queues in front of everybody are as full as they will be.
            first = 4 * workers
            for name, make in everybody.items():
                rates = rate(make(start, workers), first, _BATCHES.value)
                measured.setdefault((name, workers), []).append(rates)
                print(f"{name}, {workers} workers: {rates[0]:.2f}/s", file=sys.stderr, flush=True)
            start += first + _BATCHES.value
    return [
        {
            "implementation": name,
            "workers": workers,
            "size": _SIZE.value,
            "longer_side": _LONGER_SIDE.value,
            "batch": _BATCH.value,
            "shot": _SHOT.value,
            "episodes_per_second": [wall for wall, _ in rates],
            "episodes_per_core_second": [core for _, core in rates],
        }
        for (name, workers), rates in measured.items()
    ]


def rate(loaded: Iterator, first: int, count: int) -> tuple[float, float]:
    """Returns episodes a second, and for a second of processor time, after `first` batches."""
    for _ in range(first):
        next(loaded)
    started, used = time.perf_counter(), processor_seconds()
    for _ in range(count):
        next(loaded)
    seconds, used = time.perf_counter() - started, processor_seconds() - used
    loaded.close()
    episodes = count * _BATCH.value
    # Of few small pictures the clock of processor time may not have ticked.
    return episodes / seconds, episodes / max(used, 1 / _TICKS)


def processor_seconds() -> float:
    """Returns the processor time of this process and of its children that run (on Linux)."""

    def of(process: int) -> float:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    tasks = Path("/proc/self/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return sum(map(of, [os.getpid(), *children]))


def our_batches(load, start: int, workers: int) -> Iterator:
    """Yields the batches from number `start` on, as training does."""
    with batches(
        load, count=None, batch_size=_BATCH.value, start=start, workers=workers
    ) as iterator:
        yield from iterator


def _peer(read, draw, settings: Augmentation, *, published: bool):
    def make(start: int, workers: int) -> Iterator:
        episodes = Episodes(read, draw, settings, start * _BATCH.value, published)
        loader = torch.utils.data.DataLoader(
            episodes,
            batch_size=_BATCH.value,
            num_workers=workers,
            worker_init_fn=without_threads,
            multiprocessing_context="spawn",
        )
        yield from loader

    return make


def without_threads(_worker: int) -> None:
    """Leaves OpenCV one thread a process, as the published code does."""
    cv2.setNumThreads(0)


class Episodes(torch.utils.data.Dataset):
    """Training episodes as users of the published code write them.

    Attributes:
      read: from a picture's number to picture and label.
      draw: from an episode's number to the episode.
      settings: of the transforms.
      start: number of the first episode.
      published: whether pictures are transformed in float32, and normalised.
    """

    def __init__(self, read, draw, settings: Augmentation, start: int, published: bool):
        self.read, self.draw, self.settings = read, draw, settings
        self.start, self.published = start, published

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, number: int) -> tuple:
        episode: Episode = self.draw(self.start + number)
        query, label = self._picture(episode.query, episode.class_id)
        supports = [self._picture(s, episode.class_id) for s in episode.supports]
        images, labels = (torch.stack(part) for part in zip(*supports, strict=True))
        return query, label, images, labels, episode.class_id

    def _picture(self, number: int, class_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = self.read(number)
        binary = np.where(label == IGNORE, IGNORE, label == class_id).astype(np.uint8)
        if not self.published:
            return tuple(torch.from_numpy(x) for x in transformed(image, binary, self.settings))
        image, binary = transformed(image.astype(np.float32), binary, self.settings)
        tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
        for channel, mean, deviation in zip(tensor, MEAN_COLOUR, DEVIATION, strict=True):
            channel.sub_(mean).div_(float(deviation))
        return tensor, torch.from_numpy(binary).long()


def transformed(image: np.ndarray, label: np.ndarray, settings: Augmentation) -> Picture:
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


def cropped(image, label, random: np.random.Generator, size: int) -> Picture:
    """Cuts a random square, drawn again until most of the foreground is in it."""
    everything = np.sum(label == 1)
    for _ in range(31):
        top, left = (random.integers(n - size + 1) for n in label.shape)
        window = np.s_[top : top + size, left : left + size]
        if np.sum(label[window] == 1) >= 0.85 * everything:
            break
    return np.ascontiguousarray(image[window]), np.ascontiguousarray(label[window])


def files(split: RecordSplit) -> Callable[[int], Picture]:
    """Returns what reads a picture and its label from the source's files."""
    return functools.partial(from_files, Path(_SOURCE.value), split.names)


def from_files(source: Path, names: list[str], number: int) -> Picture:
    """Reads a JPEG with OpenCV, and a palette PNG with Pillow."""
    image = cv2.imread(str(source / "JPEGImages" / f"{names[number]}.jpg"), cv2.IMREAD_COLOR)
    label = Image.open(source / "SegmentationClass" / f"{names[number]}.png")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.array(label)


def from_records(split: RecordSplit, number: int) -> Picture:
    """Reads a picture of our records."""
    data = split[number]
    return data["image"], data["label"]


def markdown(rows: list[Row]) -> str:
    """Returns a line a row, with our rate over each."""
    lines = [
        "| pictures | workers | | episodes/s: median (min to max) | for a second of processor time "
        f"| ours over it | {CORES} cores: episodes/s, as arithmetic |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = {row["workers"]: row for row in rows if row["implementation"] == OURS}
    for row in rows:
        wall, core = row["episodes_per_second"], row["episodes_per_core_second"]
        reference = ours[row["workers"]]["episodes_per_core_second"]
        ratio = statistics.median(a / b for a, b in zip(reference, core, strict=True))
        cells = (
            f"{row['size']}x{row['size']}, {row['shot']} shot",
            row["workers"],
            row["implementation"],
            f"{statistics.median(wall):.1f} ({min(wall):.1f} to {max(wall):.1f})",
            f"{statistics.median(core):.1f} ({min(core):.1f} to {max(core):.1f})",
            f"{ratio:.2f}",
            f"{CORES * statistics.median(core):.0f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(main)
