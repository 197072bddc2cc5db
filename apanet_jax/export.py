"""Saves a trained head for others: `python -m apanet_jax.export --workdir=DIR --output=DIR`.

With `--program` also the whole network, as one file that runs without this package.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from apanet_jax.inference.exported_head import CARD, PROGRAM, SHOTS, SIZES, WEIGHTS, export
from apanet_jax.inference.matchers import GENERAL_HEAD
from apanet_jax.inference.program import PLATFORMS
from apanet_jax.runtime.compilation import DIRECTORY, keep_compiled
from apanet_jax.runtime.errors import Parser, UserError, called, main_guard

_DESCRIPTION = (
    "Saves a trained head for others: model.safetensors with PyTorch's names and layouts, the "
    "settings, and a model card; with --program also the whole network, to serve."
)


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Exports the head that the arguments name."""
    arguments = _parser().parse_args(argv)
    if not arguments.program and (arguments.size, arguments.shots) != (None, None):
        raise UserError("--size and --shots are of the program: add --program, or leave them out")
    for name, least, most in (("size", *SIZES), ("shots", *SHOTS)):
        value = getattr(arguments, name)
        if value is not None and not least <= value <= most:
            raise UserError(f"--{name}={value}: expected {least} to {most}")
    keep_compiled(DIRECTORY)
    output = export(
        Path(arguments.workdir),
        Path(arguments.output),
        arguments.checkpoint,
        program=arguments.program,
        size=arguments.size,
        shots=arguments.shots,
    )
    print(f"{output / WEIGHTS} holds the head, {output / CARD} says what it is")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=called("export"), description=_DESCRIPTION)
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        default=str(GENERAL_HEAD),
        help="of a trained run, or an exported head; default: the head that comes with the package",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the files")
    parser.add_argument(
        "--checkpoint",
        choices=["best", "last"],
        help="which of a run; default: the best on validation where there is one, else the last",
    )
    parser.add_argument(
        "--program",
        action="store_true",
        help=f"also write {PROGRAM}, the whole network as StableHLO for {', '.join(PLATFORMS)}, "
        "which needs jax and not this package",
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="side of the program's square pictures; default: the head's own",
    )
    parser.add_argument(
        "--shots",
        type=int,
        metavar="NUMBER",
        help="the program's supports; default: as many as the head was trained with",
    )
    return parser


if __name__ == "__main__":
    main()
