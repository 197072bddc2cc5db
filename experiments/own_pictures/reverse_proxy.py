"""A small reverse proxy that serves a page below a path, as nginx's proxy_pass does."""

import contextlib
import threading
import time
from collections.abc import Iterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Mount

_OF_ONE_LINK = ("connection", "keep-alive", "transfer-encoding", "host", "content-length")
_PATIENCE = 30
"""Seconds until it listens."""


@contextlib.contextmanager
def proxied(address: str, below: str, port: int) -> Iterator[str]:
    """Serves a page below a path while the block runs; yields the address.

    Args:
      address: of the page.
      below: the path, which is taken off what is asked for.
      port: to listen on, of this machine.
    """
    client = httpx.AsyncClient(base_url=address, timeout=None, trust_env=False)

    async def forwarded(scope, receive, send) -> None:
        request = Request(scope, receive)
        path = scope["path"].removeprefix(below) or "/"
        headers = [(k, v) for k, v in request.headers.items() if k not in _OF_ONE_LINK]
        url = httpx.URL(path=path, query=scope["query_string"])
        content = await request.body()
        asked = client.build_request(request.method, url, headers=headers, content=content)
        answer = await client.send(asked, stream=True)
        kept = {k: v for k, v in answer.headers.items() if k not in _OF_ONE_LINK}
        response = StreamingResponse(
            answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose)
        )
        await response(scope, receive, send)

    app = Starlette(routes=[Mount(below, app=forwarded)])
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        end = time.monotonic() + _PATIENCE
        while not server.started:
            if time.monotonic() > end or not thread.is_alive():
                raise OSError(f"the proxy does not listen on port {port}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}{below}/"
    finally:
        server.should_exit = True
        thread.join(10)
