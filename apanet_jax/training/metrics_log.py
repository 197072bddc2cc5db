"""Metrics of a training: metrics.jsonl and TensorBoard's event files."""

import json
import time
from pathlib import Path
from typing import Any

from apanet_jax.runtime.atomic_files import cannot_write, writing

METRICS = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's `metrics.jsonl`; none where there is none."""
    path = folder / METRICS
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            # The last line of a run that was killed while it wrote.
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class MetricsLog:
    """Appends lines to `metrics.jsonl` and scalars to TensorBoard's event files."""

    def __init__(self, workdir: Path, step: int):
        """Goes on after `step`: lines of later steps, from before an interruption, are dropped."""
        # It imports PyTorch where that is installed, seconds that only a training shall spend.
        from tensorboardX import SummaryWriter

        self._path = workdir / METRICS
        with cannot_write(self._path):
            kept = [line for line in read_metrics(workdir) if line["step"] <= step]
            with writing(self._path) as file:
                file.writelines(json.dumps(line) + "\n" for line in kept)
            self._events = SummaryWriter(str(workdir), purge_step=step + 1 if step else None)
        before = kept[-1].get("seconds") if kept else None
        self._started = time.perf_counter() - (before if isinstance(before, int | float) else 0)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_) -> None:
        self._events.close()

    def write(self, step: int, **values: Any) -> None:
        """Writes a line `{"step": step, **values, "seconds": …}`; `values` go to TensorBoard too.

        The seconds are those since training began, without the time between an interruption and
        going on.
        """
        seconds = round(time.perf_counter() - self._started, 3)
        with cannot_write(self._path), self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values, "seconds": seconds}) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._events.add_scalar(name, value, step)
