"""Shows a page in the browser on which few-shot segmentation can be tried."""

import argparse
import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from apanet_jax.predict import add_head
from apanet_jax.runtime.errors import Parser, UserError, called, main_guard

_DETAILS = """\
The page has sample pictures, drawn when it starts. What is uploaded stays on
this machine and is deleted at the end. Ctrl-C ends it.

examples:
  %(prog)s
  %(prog)s --workdir=runs/mine --port=8080
"""
_PORT = 7860
_FOLDER = "GRADIO_TEMP_DIR"
_QUEUE, _VISITORS = 20, 50


@main_guard
def main(argv: Sequence[str] | None = None) -> int:
    """Serves the page until a signal ends it."""
    arguments = _parser().parse_args(argv)
    if not 1 <= arguments.port <= 65535:
        raise UserError(f"--port={arguments.port}: expected a number from 1 to 65535")
    _require_gradio()

    # Imported here, so that wrong arguments are answered at once and --help needs no accelerator.
    import apanet_jax
    from apanet_jax.runtime.compilation import DIRECTORY, keep_compiled

    keep_compiled(DIRECTORY)
    matcher = apanet_jax.load(arguments.workdir, size=arguments.size).matcher
    with serving(matcher, arguments.host, arguments.port, share=arguments.share) as address:
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
        threading.Event().wait()
    return 0


@contextlib.contextmanager
def serving(matcher, host: str, port: int, *, share: bool = False) -> Iterator[str]:
    """Serves the page while the block runs; yields its address. Nothing is kept afterwards.

    Args:
      matcher: `apanet_jax.inference.matchers.Matcher`, what looks.
      host: address to listen on.
      port: to listen on.
      share: whether Gradio's service lends a public address too.

    Raises:
      UserError: the address cannot be listened on.
    """
    with temporary_folder():
        from apanet_jax.demo import given, page

        samples = {thing: given.drawn_sample(thing) for thing in given.SAMPLES}
        blocks = page.build(matcher, samples).queue(max_size=_QUEUE)
        try:
            _, local, public = blocks.launch(
                server_name=host,
                server_port=port,
                share=share,
                prevent_thread_lock=True,
                quiet=True,
                ssr_mode=False,
                run_history=False,
                enable_monitoring=False,
                footer_links=[],
                max_file_size=given.LARGEST_FILE,
                state_session_capacity=_VISITORS,
                theme=page.THEME,
                css=page.CSS,
            )
        except OSError as error:
            raise UserError(
                f"{host}:{port} cannot be listened on: it is taken or not allowed, or the machine "
                "is too busy to start within 5 seconds; give another --port or --host, or try again"
            ) from error
        try:
            # Compiles what the first visitor would wait for.
            from apanet_jax.demo.shown import cards

            next(cards(samples[given.SAMPLES[0]], matcher))
            yield public or local
        finally:
            blocks.close(verbose=False)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Has Gradio keep its files in a folder that is removed with all that is in it."""
    before = os.environ.get(_FOLDER)
    with tempfile.TemporaryDirectory(
        prefix="apanet_jax_demo_", ignore_cleanup_errors=True
    ) as folder:
        os.environ[_FOLDER] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ[_FOLDER]
            else:
                os.environ[_FOLDER] = before


def _require_gradio() -> None:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            'the page needs Gradio, which is not installed: pip install "apanet_jax[demo]", or '
            "pip install -r requirements/demo.txt in a checkout"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=called("demo"),
        description=__doc__,
        epilog=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_head(parser)
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
        help="ask Gradio's service for a public address; pictures then pass through it",
    )
    return parser
