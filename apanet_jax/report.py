"""A run's report: `python -m apanet_jax.report --workdir=DIR` writes DIR/report.html.

A page that needs nothing else: curves, results, pictures and settings. A run that works writes it
itself and keeps it up to date; the command is for those from before, and for pictures or results
that came later.
"""

import argparse
from collections.abc import Sequence

from apanet_jax.runs.live_report import write_reports
from apanet_jax.runtime.errors import Parser, called, main_guard
from apanet_jax.runtime.paths import given_path


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Writes the reports of the workdir that the arguments name."""
    written = write_reports(_parser().parse_args(argv).workdir)
    print(f"written to {written}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=called("report"), description=__doc__.partition(":")[0])
    parser.add_argument(
        "--workdir", type=given_path, required=True, help="of a run, or of several below it"
    )
    return parser


if __name__ == "__main__":
    main()
