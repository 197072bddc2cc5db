"""How the commands speak of bad input and of being stopped: one clear line, no traceback."""

import argparse
import contextlib
import functools
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

_SOON = 0.05
"""Seconds until a signal that was lost is raised once more."""


class UserError(Exception):
    """Something the user gave cannot be used.

    The message is one line: what was given, what was expected, what to do.
    """

    def __init__(self, message: str):
        """Takes the message; names in it that break lines no longer do."""
        super().__init__(" ".join(message.split()))


class Parser(argparse.ArgumentParser):
    """Parses a command's arguments; wrong ones are a `UserError`, without the lines of usage."""

    def error(self, message: str) -> NoReturn:
        """Raises a UserError that says what is wrong with the arguments."""
        raise UserError(f"{message}; see {self.prog} --help")


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end; the message is one line.

    Attributes:
      status: what the process ends with, 128 plus the signal's number as a shell expects.
      together: whether every process of the run stops at the same place.
    """

    def __init__(
        self, number: int, message: str = "stopped by the user", *, together: bool = False
    ):
        """Stops for the signal `number`."""
        super().__init__(message)
        self.status, self.together = 128 + number, together


def status_of(error: BaseException) -> int:
    """Returns what a process ends with that this error ends."""
    if isinstance(error, UserError | OSError):
        return 2
    if isinstance(error, KeyboardInterrupt):
        return getattr(error, "status", 128 + signal.SIGINT)
    return 1


def called(command: str) -> str:
    """Returns how a command is being called: `apanet-jax COMMAND`, or as a module of that name."""
    console = f"apanet-jax {command}"
    return console if sys.argv[0] == console else f"python -m apanet_jax.{command}"


class MissingTool(UserError, ImportError):
    """A package that only one helper needs is not installed."""


@contextlib.contextmanager
def needs(package: str, what: str) -> Iterator[None]:
    """Says which package is missing where the block cannot import it.

    Args:
      package: as pip calls it.
      what: needs it.

    Raises:
      MissingTool: it is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise MissingTool(
            f"{what} needs {package}, which is not installed (no module {error.name}): "
            f"pip install {package}"
        ) from error


def main_guard(function: Callable[..., int | None]) -> Callable[..., None]:
    """Wraps a command's entry point: prints a `UserError` as one line and exits with status 2.

    So it does with what the system refuses (`OSError`). Ctrl-C ends the command with status 130,
    SIGTERM with 143, each with one line too.
    """

    @functools.wraps(function)
    def guarded(*args, **kwargs) -> None:
        try:
            with warnings.catch_warnings(), _stopping_on(signal.SIGTERM):
                # Pillow's, of tags that nothing here reads.
                warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
                status = function(*args, **kwargs)
        except UserError as error:
            _tell(f"error: {error}")
            sys.exit(status_of(error))
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            _tell(f"error: {name}{error.strerror or error}")
            sys.exit(status_of(error))
        except KeyboardInterrupt as stopped:
            _tell(str(stopped) or "stopped by the user")
            sys.exit(status_of(stopped))
        sys.exit(status or 0)

    return guarded


class StopSignals:
    """While it is open the first SIGTERM or SIGINT is noted and the second one ends at once.

    A context manager; only in the main thread does it see any signal.

    Attributes:
      asked: number of the signal that came, or None.
    """

    def __init__(self):
        """Notes nothing before it is opened."""
        self.asked: int | None = None
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> "StopSignals":
        self._opened.enter_context(_signals_to(self._note, signal.SIGTERM, signal.SIGINT))
        return self

    def __exit__(self, *_) -> None:
        self._opened.close()

    def _note(self, number: int, _frame) -> None:
        if self.asked is not None:
            _stop_at_once(number, _frame)
        self.asked = number


def _stop_at_once(number: int, _frame) -> None:
    raise Stopped(number)


@contextlib.contextmanager
def _stopping_on(number: int) -> Iterator[None]:
    """Has a signal raise `Stopped`, once more where it came while an object was being deleted.

    Python cannot hand on what is raised there: it prints the error and goes on.
    """
    before = sys.unraisablehook

    def hook(unraisable) -> None:
        if isinstance(unraisable.exc_value, Stopped):
            threading.Timer(_SOON, signal.raise_signal, [number]).start()
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        with _signals_to(_stop_at_once, number):
            yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def _signals_to(handler: Callable, *numbers: int) -> Iterator[None]:
    """Has signals handled by `handler`, and afterwards as before; ignored ones stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old if old is not None else signal.SIG_DFL)


def _tell(message: str) -> None:
    print(" ".join(message.split()), file=sys.stderr)
