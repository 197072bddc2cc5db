"""Serves a page in the browser on which few-shot segmentation can be tried."""

import argparse
from collections.abc import Sequence

from apanet_jax.demo.server import serve
from apanet_jax.predict import add_head_flags
from apanet_jax.runtime.errors import Parser, called, main_guard

_DETAILS = """\
The page has sample images, drawn when it starts. What is uploaded stays on this
machine and is deleted at the end. Ctrl-C ends it.

examples:
  %(prog)s
  %(prog)s --workdir=runs/mine --port=8080
"""
_PORT = 7860


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Serves the page until a signal ends it."""
    arguments = _parser().parse_args(argv)
    serve(
        arguments.workdir,
        head=arguments.head,
        size=arguments.size,
        trained=not arguments.untrained,
        host=arguments.host,
        port=arguments.port,
        share=arguments.share,
        root_path=arguments.root_path.rstrip("/"),
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=called("demo"),
        description=__doc__,
        epilog=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_head_flags(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine alone; 0.0.0.0: anybody "
        "who reaches it)",
    )
    parser.add_argument(
        "--port", type=int, default=_PORT, help="port to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="ask Gradio's service for a public address; images then pass through it",
    )
    parser.add_argument(
        "--root-path",
        default="",
        metavar="/PATH",
        help="path below which a proxy serves the page, and which it takes off",
    )
    return parser
