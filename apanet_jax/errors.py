"""How the commands speak of bad input: one clear line, no traceback."""

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user gave cannot be used.

    The message is one line: what was given, what was expected, what to do.
    """


def main_guard(function: Callable[..., int | None]) -> Callable[..., None]:
    """Wraps a command's entry point: prints a `UserError` as one line and exits with status 2.

    Ctrl-C ends the command with status 130, as a shell expects.
    """

    @functools.wraps(function)
    def guarded(*args, **kwargs) -> None:
        try:
            status = function(*args, **kwargs)
        except UserError as error:
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("stopped by the user", file=sys.stderr)
            sys.exit(130)
        sys.exit(status or 0)

    return guarded
