"""The command `apanet-jax`, also `python -m apanet_jax`: hands over to the command it names."""

import argparse
import importlib
import sys

from apanet_jax import __version__
from apanet_jax.config.flags import run_command
from apanet_jax.runtime.errors import Parser, main_guard

# A module and what it does, by the command's name; in the order in which they are needed.
_COMMANDS = {
    "predict": ("predict", "finds in images what a few of them show with a mask"),
    "demo": ("demo", "a page in the browser to try that on"),
    "prepare": ("prepare", "checks images and masks, writes them as records"),
    "train": ("main", "trains on records, evaluates on novel classes"),
    "export": ("export", "writes a trained head for others, with a model card"),
    "report": ("report", "writes a run's page, report.html, again"),
}
_START = """\
start here:
  apanet-jax predict --support a.jpg a_mask.png --output=found photos
      needs no training: one to five images with a mask are enough
  apanet-jax train --config=quickstart
      draws its own data, trains on 15 classes and tests on 5 others

`apanet-jax COMMAND --help` says more about each.
"""


def main() -> None:
    """Runs the command that the first argument names, with the arguments behind it."""
    name, *rest = _parsed(sys.argv[1:])
    module = importlib.import_module(f"apanet_jax.{_COMMANDS[name][0]}")
    # Commands say in their help and errors how they were called, and absl reads flags from here.
    sys.argv = [f"apanet-jax {name}", *rest]
    if name == "train":
        run_command(module.main)
    else:
        module.main()


@main_guard
def _refuse(arguments: list[str]) -> None:
    _parser().parse_args(arguments)


def _parsed(arguments: list[str]) -> list[str]:
    """Returns the arguments where they begin with a command; otherwise answers them and ends."""
    if not arguments or arguments[0] not in _COMMANDS:
        _refuse(arguments or ["--help"])
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="apanet-jax",
        description="Few-shot segmentation: finds in images what a few of them show with a mask.",
        epilog=_START,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"apanet_jax {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (_, does) in _COMMANDS.items():
        commands.add_parser(name, help=does)
    return parser


if __name__ == "__main__":
    main()
