"""What a run left in its workdir so far, read for people to look at."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apanet_jax.config.definitions import NO_FOLD, Settings
from apanet_jax.config.saved import of_run
from apanet_jax.config.settings import typed
from apanet_jax.data.records.reading import Records, open_records
from apanet_jax.evaluation.results import RESULTS, read_results
from apanet_jax.reports import head_comparison
from apanet_jax.reports.paper import PublishedRow
from apanet_jax.reports.tables import published_beside_run
from apanet_jax.runtime.errors import UserError
from apanet_jax.training.metrics_log import read_metrics

_RECENT = 20
"""Logged steps that the time left is reckoned from."""

_NEEDED = {"shot": int, "checkpoint": str, "miou": int | float, "fb_iou": int | float}


class RunRecord(NamedTuple):
    """What a run left so far.

    Attributes:
      name: the folder's.
      settings: the run's.
      metrics: the lines of `metrics.jsonl`.
      results: the objects of `results.json`; may be none.
      heads: beside those of the package, see `head_comparison`; may be none.
      pictures: files of drawn test episodes; none while a process works on the run.
      published: the paper's rows to stand beside the results.
      steps: of the whole training; None where that is not known.
      live: whether a process works on the run.
      environment: "versions" and "device" of the process, where the results do not tell them.
    """

    name: str
    settings: Settings
    metrics: Sequence[Mapping[str, Any]]
    results: Sequence[Mapping[str, Any]]
    heads: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[Path] = ()
    published: Sequence[PublishedRow] = ()
    steps: int | None = None
    live: bool = False
    environment: Mapping[str, Any] = {}

    @property
    def step(self) -> int:
        """The last step that was logged, 0 before the first."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def is_trained(self) -> bool:
        """Whether the last step is behind it."""
        return self.steps is not None and self.step >= self.steps

    @property
    def title(self) -> str:
        """What is trained, on what."""
        kind = "APANet" if self.settings.model.num_clusters else "Baseline"
        fold = self.settings.fold
        classes = "all classes" if fold == NO_FOLD else f"fold {fold}"
        return f"{kind} on {self.dataset}, {classes}"

    @property
    def dataset(self) -> str:
        """The data set's name, as far as it is known."""
        named = self.results[0].get("dataset") if self.results else self.settings.dataset
        return named or "own pictures"

    @property
    def state(self) -> tuple[str, str]:
        """How far the run is: one of "done", "live", "stopped", "waiting", and a sentence."""
        of = f" of {self.steps:,}" if self.steps else ""
        scored = any(row.get("step") in (self.step, None) for row in self.results)
        if self.live and not self.step and not self.results:
            return "live", f"Step 0{of}: nothing is logged yet"
        if self.live and not self.is_trained:
            left = self.seconds_left
            about = "" if left is None else f", about {duration(left)} left"
            return "live", f"Training, step {self.step:,}{of}{about}"
        if self.live:
            return "live", f"Trained for {self.step:,} steps; the test episodes are being scored"
        if scored:
            return "done", f"Finished after {self.step:,} steps" if self.step else "Scored"
        if self.is_trained:
            return "done", f"Trained for {self.step:,} steps, not scored"
        if not self.step:
            return "waiting", "Not begun"
        return "stopped", f"Stopped behind step {self.step:,}{of}"

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training to come, by the pace of the last logged steps; None if unknown."""
        timed = [(x["step"], x["seconds"]) for x in self.metrics if "seconds" in x][-_RECENT:]
        if self.steps is None or not timed or timed[-1][0] == timed[0][0]:
            return None
        (first, began), (last, ended) = timed[0], timed[-1]
        return max(0, self.steps - last) * (ended - began) / (last - first)

    @property
    def episodes_per_second(self) -> float | None:
        """The median of the logged paces."""
        paces = [line["episodes_per_second"] for line in self.metrics if "loss" in line]
        return statistics.median(paces) if paces else None

    def shots(self) -> list[int]:
        """The numbers of supports it was tested with."""
        return sorted({row["shot"] for row in self.results})

    def of_last(self) -> dict[int, Mapping[str, Any]]:
        """Returns the results of the last checkpoint (or the given one) by shot."""
        checkpoints = [row["checkpoint"] for row in self.results]
        chosen = "last" if "last" in checkpoints else next(iter(checkpoints), None)
        return {row["shot"]: row for row in self.results if row["checkpoint"] == chosen}

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Returns (step, value) of a metric."""
        return [(line["step"], line[name]) for line in self.metrics if name in line]


def read_run(
    folder: Path,
    *,
    settings: Settings | None = None,
    steps: int | None = None,
    live: bool = False,
    environment: Mapping[str, Any] | None = None,
    records: Records | None = None,
) -> RunRecord:
    """Reads what a run left in its folder.

    Args:
      folder: the run's.
      settings: its own; None: those that it left there.
      steps, live, environment: see `RunRecord`.
      records: the data set, where it is open; None: it is opened, for the paper's rows.

    Raises:
      UserError: there is no run, or a file of it cannot be read.
    """
    if settings is None:
        settings = typed(of_run(folder))
    results = read_results(folder) if (folder / RESULTS).exists() else []
    for row in results:
        if not all(isinstance(row.get(name), kind) for name, kind in _NEEDED.items()):
            raise UserError(
                f"{folder / RESULTS} holds no results: expected {', '.join(_NEEDED)} in each"
            )
    return RunRecord(
        name=folder.absolute().name,
        settings=settings,
        metrics=read_metrics(folder),
        results=results,
        heads=head_comparison.read(folder),
        pictures=_pictures(folder) if results and not live else (),
        published=_published_rows(settings, records) if results else (),
        steps=steps or settings.training.steps or None,
        live=live,
        environment=environment or {},
    )


def pictures_in(folder: Path) -> tuple[Path, ...]:
    """Returns the pictures of test episodes that were drawn in a folder."""
    return tuple(sorted((folder / "pictures").glob("episode_*.png")))


def _published_rows(settings: Settings, records: Records | None) -> tuple[PublishedRow, ...]:
    """Returns the paper's rows beside runs of `settings`; none without the records' folds."""
    try:
        data = records or open_records(Path(settings.data.records))
    except UserError:
        return ()
    return published_beside_run(settings, data)


def duration(seconds: float) -> str:
    """Returns a time as people say it, in its two largest units."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def _pictures(folder: Path) -> tuple[Path, ...]:
    """Returns a run's pictures; variants share those of the folder above."""
    return pictures_in(folder) or pictures_in(folder.absolute().parent)
