"""Starts the page and ends it, with nothing left of what visitors uploaded."""

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from apanet_jax.inference.heads.head_choice import HeadChoice
from apanet_jax.runtime.errors import UserError

_FOLDER = "GRADIO_TEMP_DIR"
_PROXIES = ("NO_PROXY", "no_proxy")
_QUEUE, _VISITORS = 20, 50
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def serve(
    source: Path | None,
    *,
    head: HeadChoice,
    size: int | None,
    trained: bool,
    host: str,
    port: int,
    share: bool,
    root_path: str = "",
) -> None:
    """Serves the page until a signal ends it.

    Args:
      source: of the head, see `segmenter.load`.
      head: see `segmenter.load`.
      size: see `segmenter.load`.
      trained: see `segmenter.load`.
      host: see `serving`.
      port: see `serving`.
      share: see `serving`.
      root_path: see `serving`.

    Raises:
      UserError: see `serving`; Gradio or the head are missing.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"--port={port}: expected a number from 1 to 65535")
    if root_path and not _ROOT_PATH.fullmatch(root_path):
        raise UserError(
            f"--root-path={root_path}: expected the path below which a proxy serves the page, "
            "as in /segment"
        )
    _require_gradio()

    # Imported here, so that wrong arguments are answered at once and --help needs no accelerator.
    from apanet_jax.inference.segmenter import load
    from apanet_jax.runtime.compilation import DIRECTORY, keep_compiled

    keep_compiled(DIRECTORY)
    matcher = load(source, head=head, size=size, trained=trained).matcher
    with serving(matcher, host, port, share=share, root_path=root_path) as address:
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
        threading.Event().wait()


@contextlib.contextmanager
def serving(
    matcher, host: str, port: int, *, share: bool = False, root_path: str = ""
) -> Iterator[str]:
    """Serves the page while the block runs; yields its address. Nothing is kept afterwards.

    Args:
      matcher: `apanet_jax.inference.matching.matcher.Matcher`, which segments the queries.
      host: address to listen on.
      port: to listen on.
      share: whether Gradio's service lends a public address too.
      root_path: below which a proxy serves the page, and which it takes off; empty for none.

    Raises:
      UserError: the address cannot be listened on, or cannot be reached.
    """
    with contextlib.ExitStack() as opened:
        opened.enter_context(_temporary_folder())
        from apanet_jax.demo import finding, page, uploads, visit

        opened.enter_context(page.bounded_editors())
        samples = {name: visit.drawn_sample(name) for name in visit.SAMPLES}
        blocks = page.build(matcher, samples).queue(max_size=_QUEUE)
        try:
            with _launch_errors(host, port), _without_proxy(host):
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
                    max_file_size=uploads.LARGEST_FILE,
                    root_path=root_path,
                    state_session_capacity=_VISITORS,
                    theme=page.THEME,
                    css=page.CSS,
                )
            # Compiles what the first visitor would wait for.
            next(finding.found(samples[visit.SAMPLES[0]], matcher))
            yield public or local
        finally:
            blocks.close(verbose=False)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Has Gradio keep its files in a folder that is removed with all that is in it."""
    with (
        tempfile.TemporaryDirectory(
            prefix="apanet_jax_demo_", ignore_cleanup_errors=True
        ) as folder,
        _environment({_FOLDER: folder}),
    ):
        yield Path(folder)


@contextlib.contextmanager
def _without_proxy(host: str) -> Iterator[None]:
    """Has Gradio ask its own address directly: it checks that the page answers as it starts."""
    own = ["localhost", "127.0.0.1", host]
    others = [os.environ[name] for name in _PROXIES if os.environ.get(name)]
    with _environment(dict.fromkeys(_PROXIES, ",".join([*others, *own]))):
        yield


@contextlib.contextmanager
def _launch_errors(host: str, port: int) -> Iterator[None]:
    """Makes what hinders the start a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{host}:{port} cannot be listened on: it is taken or not allowed, or the machine "
            "is too busy to start within 5 seconds; give another --port or --host, or try again"
        ) from error
    except Exception as error:  # Gradio passes on whatever its client for HTTP raises.
        raise UserError(
            f"the page started but cannot be reached at {host}:{port} from this machine "
            f"({type(error).__name__}): is there a firewall, or a proxy (http_proxy, all_proxy) "
            f"that ignores NO_PROXY?"
        ) from error


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Sets environment variables while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _require_gradio() -> None:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            'the page needs Gradio, which is not installed: pip install "apanet_jax[demo]", or '
            "pip install -r requirements/demo.txt in a checkout"
        ) from error
