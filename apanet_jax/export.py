"""Saves a trained head for others: `python -m apanet_jax.export --workdir=DIR --output=DIR`.

With `--program` also the whole network, as one file that runs without this package.
"""

import argparse
from collections.abc import Sequence

from apanet_jax.inference.heads.exported_head import CARD, PROGRAM, export
from apanet_jax.inference.heads.program import PLATFORMS
from apanet_jax.inference.heads.saved_head import GENERAL_HEAD, WEIGHTS
from apanet_jax.runtime.compilation import DIRECTORY, keep_compiled
from apanet_jax.runtime.errors import Parser, called, main_guard
from apanet_jax.runtime.paths import given_path

_DESCRIPTION = (
    f"Saves a trained head for others: {WEIGHTS} with PyTorch's names and layouts, the "
    "settings, and a model card; with --program also the whole network, to serve."
)


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Exports the head that the arguments name."""
    arguments = _parser().parse_args(argv)
    keep_compiled(DIRECTORY)
    output = export(
        arguments.workdir,
        arguments.output,
        arguments.checkpoint,
        program=arguments.program,
        size=arguments.size,
        shots=arguments.shots,
    )
    print(f"{output / WEIGHTS} holds the head, {output / CARD} describes it")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=called("export"), description=_DESCRIPTION)
    parser.add_argument(
        "--workdir",
        type=given_path,
        metavar="DIR",
        default=GENERAL_HEAD,
        help="of a trained run, or an exported head; default: the head that comes with the package",
    )
    parser.add_argument(
        "--output", type=given_path, required=True, metavar="DIR", help="folder for the files"
    )
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
        help="side of the program's square images; default: the head's own",
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
