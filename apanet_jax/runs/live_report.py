"""Reports of runs, written while a process works on them and again afterwards."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from apanet_jax.config import saved
from apanet_jax.reports.overview_page import overview_page
from apanet_jax.reports.run_page import run_page
from apanet_jax.reports.run_record import RunRecord, pictures_in, read_run
from apanet_jax.runs.run import Run
from apanet_jax.runs.scoring import environment
from apanet_jax.runtime import processes
from apanet_jax.runtime.atomic_files import cannot_write, write_bytes
from apanet_jax.runtime.errors import UserError
from apanet_jax.runtime.workdir_lock import sole_use

FILE = "report.html"


_PAUSE, _SHARE = 5.0, 0.01
"""A page is written again after `_PAUSE` seconds at the earliest, and takes at most this share of
the time: the longer a run's metrics, the more rarely."""


DEEPEST = 3
"""How many folders lie between a workdir and its runs at most: seed, fold, variant."""


def write_reports(workdir: Path) -> Path:
    """Writes the report of each run in `workdir` or below it, and their overview; returns its file.

    Raises:
      UserError: there is no run, one is in use, or nothing can be written.
    """
    folders = runs_below(workdir)
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.enter_context(sole_use(folder))
        records = {folder: read_run(folder) for folder in folders}
        for folder, record in records.items():
            _write(folder, run_page(record))
        if folders != [workdir]:
            write_overview(workdir, records)
    return workdir / FILE


def runs_below(workdir: Path) -> list[Path]:
    """Returns the folders of a workdir's runs: itself, or those below it.

    Raises:
      UserError: there is none.
    """
    if (workdir / saved.FILE).exists():
        return [workdir]
    patterns = ("*/" * depth + saved.FILE for depth in range(1, DEEPEST + 1))
    found = sorted(path.parent for pattern in patterns for path in workdir.glob(pattern))
    if not found:
        raise UserError(
            f"--workdir={workdir} holds no run: expected {saved.FILE} there or in folders below"
        )
    return found


def write_overview(workdir: Path, records: Mapping[Path, RunRecord]) -> None:
    """Writes the report of several runs, with links to each one's.

    Args:
      workdir: above them all.
      records: by each run's folder.

    Raises:
      UserError: it cannot be written; what was there before stays.
    """
    runs = {folder.relative_to(workdir).as_posix(): run for folder, run in records.items()}
    links = {name: f"{quote(name)}/{FILE}" for name in runs}
    _write(workdir, overview_page(workdir.absolute().name, runs, links, pictures_in(workdir)))


def report_on(run: Run, folder: Path, *, live: bool) -> bool:
    """Writes a run's report as far as the run has come; returns whether it could be written.

    What hinders it is one line of warning: a page is no reason to end a training.
    """
    return _told(folder, lambda: _write(folder, run_page(_record(run, folder, live))))


class LiveReport:
    """Keeps a run's report up to date while a process works on the run; a context manager."""

    def __init__(self, run: Run, folder: Path):
        """Is of `run`, in its own folder."""
        self._run, self._folder, self._due = run, folder, 0.0

    def __enter__(self) -> "LiveReport":
        self._write(live=True)
        return self

    def __exit__(self, *_) -> None:
        self._write(live=False)

    def update(self) -> None:
        """Writes it again if the last time is long enough ago."""
        if time.perf_counter() >= self._due:
            self._write(live=True)

    def _write(self, *, live: bool) -> None:
        started = time.perf_counter()
        # Where it could not be written once, one line said so, and the run goes on without.
        written = self._due < math.inf and report_on(self._run, self._folder, live=live)
        took = time.perf_counter() - started
        self._due = started + took + max(_PAUSE, took / _SHARE) if written else math.inf


class LiveOverview:
    """Keeps the report of several runs up to date while a process works on them.

    A context manager; where there is one run only, its own report is all there is.
    """

    def __init__(self, workdir: Path, runs: Sequence[tuple[Run, Path]]):
        """Is of runs, each with its folder, below `workdir`."""
        self._workdir, self._runs = workdir, runs
        self._several = [folder for _, folder in runs] != [workdir]
        self._ahead = [folder for _, folder in runs]

    def __enter__(self) -> "LiveOverview":
        if self._several:
            self._report_ahead(live=True)
            self._write()
        return self

    def __exit__(self, *_) -> None:
        if self._several:
            self._report_ahead(live=False)
            self._ahead = []
            self._write()

    def done(self, folder: Path) -> None:
        """Writes it again, with a run that is behind."""
        if self._several:
            self._ahead.remove(folder)
            self._write()

    def _report_ahead(self, *, live: bool) -> None:
        """Writes the reports of runs that are not begun, for the links to lead somewhere."""
        for run, folder in self._runs:
            if folder in self._ahead and not report_on(run, folder, live=live):
                return

    def _write(self) -> None:
        def write():
            runs = {
                folder: _record(run, folder, folder in self._ahead) for run, folder in self._runs
            }
            write_overview(self._workdir, runs)

        _told(self._workdir, write)


def _record(run: Run, folder: Path, live: bool) -> RunRecord:
    return read_run(
        folder,
        settings=run.settings,
        steps=run.steps,
        live=live,
        environment=environment(run),
        records=run.records,
    )


def _write(folder: Path, page: str) -> None:
    with cannot_write(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / FILE, page.encode())


def _told(folder: Path, write: Callable[[], None]) -> bool:
    """Returns whether `write` did, if this process writes at all; tells in one line why not."""
    if not processes.is_leader():
        return True
    try:
        write()
    except Exception as error:  # Results that somebody edited can be wrong in any way.
        reason = " ".join(str(error).split())
        print(f"warning: no report is written to {folder}: {reason}", file=sys.stderr, flush=True)
        return False
    return True
