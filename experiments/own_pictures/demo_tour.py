"""Does in a browser what a visitor of `apanet_jax.demo` does, and checks that it works.

    pip install playwright
    python experiments/own_pictures/demo_tour.py --support=IMAGE [--support=IMAGE …] --queries=DIR \
        --output=DIR [--chromium=/usr/bin/chromium] [--workdir=WORKDIR] [--port=7871]

It takes a sample and finds its class; then it uploads the supports, paints over the middle of each
with the mouse, uploads the queries and finds again; then it makes a visitor's mistakes. It returns
1 unless masks appear each time, the page answers every mistake, nothing is wider than a phone, and
no request leaves this machine. DIR then holds screenshots of the page at the widths of a desk and
a phone, and demo.png for the README.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.image_files import find_images
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}
_PATIENCE = 120_000
"""Milliseconds for anything to appear."""
_README_WIDTH, _README_HEIGHT = 800, 1560
_LOCAL = ("127.0.0.1", "localhost")


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    support = {"action": "append", "required": True, "metavar": "IMAGE"}
    parser.add_argument("--support", **support, help="to paint on, in its middle")
    parser.add_argument("--queries", required=True, help="a folder with 1 to 12 images to search")
    parser.add_argument("--output", type=Path, required=True, help="where screenshots go")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser")
    parser.add_argument("--workdir", help="another head than that of the package")
    parser.add_argument("--port", type=harness.whole(1), default=7871, help="of the page (7871)")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> int:
    """Takes the tour at each width; returns 1 if something was not as it should be."""
    given = arguments().parse_args(argv)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UserError("this needs playwright: pip install playwright") from error
    given.output.mkdir(parents=True, exist_ok=True)
    wrong: list[str] = []
    command = [sys.executable, "-m", "apanet_jax.demo", f"--port={given.port}"]
    command += [f"--workdir={given.workdir}"] if given.workdir else []
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, cwd=harness.ROOT, stdout=pipe, stderr=pipe, text=True)
    try:
        line = server.stdout.readline()
        if not line.startswith("open "):
            raise UserError(f"the page did not start: {server.stderr.read()}")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=given.chromium, args=list(_FLAGS))
            for name, (width, height) in _WIDTHS.items():
                page = browser.new_page(viewport={"width": width, "height": height})
                wrong += [f"{name}: {x}" for x in _tour(page, line.split()[1], given, name)]
                page.close()
            browser.close()
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=60)
    if server.returncode != 143 or errors.strip() != "stopped by the user":
        wrong.append(f"the server ended with {server.returncode} and printed {errors!r}")
    print("\n".join(wrong) or "all was as it should be")
    return 1 if wrong else 0


def _tour(page: Any, address: str, given: argparse.Namespace, name: str) -> list[str]:
    """Visits the page once; returns what was wrong."""
    wrong: list[str] = []
    page.set_default_timeout(_PATIENCE)
    page.set_default_navigation_timeout(_PATIENCE)
    page.on("request", lambda request: wrong.extend(_foreign(request.url)))
    page.on("pageerror", lambda error: wrong.append(f"error in the page: {error}"))
    page.goto(address)
    page.wait_for_selector("#find")

    def shoot(part: str) -> bytes:
        return page.screenshot(path=given.output / f"{name}_{part}.png", full_page=True)

    shoot("start")
    page.get_by_role("button", name="Sample: butterfly").click()
    page.wait_for_selector("#editor canvas")
    page.wait_for_timeout(1500)
    shoot("filled")
    wrong += _find(page, 4)
    screenshot = shoot("sample")
    if name == "desk":
        _save_small(screenshot, given.output / "demo.png")

    page.get_by_role("button", name="Start over").click()
    page.wait_for_timeout(1500)
    _mistake(page, lambda: page.click("#find"))
    queries = find_images([given.queries])
    page.set_input_files("#supports input[type=file]", given.support)
    page.wait_for_selector("#editor canvas")
    page.set_input_files("#queries input[type=file]", queries)
    page.wait_for_selector("#strip img")
    _mistake(page, lambda: page.click("#find"))
    for number in range(len(given.support)):
        if len(given.support) > 1:
            _choose(page, number)
        _paint(page)
    shoot("painted")
    wrong += _find(page, len(queries))
    shoot("own")

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "notes.png"
        text.write_text("no image")
        _mistake(page, lambda: page.set_input_files("#queries input[type=file]", text))
    six = (given.support * 6)[:6]
    _mistake(page, lambda: page.set_input_files("#supports input[type=file]", six))
    shoot("problem")
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    if wide > 0:
        wrong.append(f"{wide} pixels wider than the window")
    return wrong


def _mistake(page: Any, make: Callable[[], None]) -> None:
    """Makes a visitor's mistake, and waits until the page's hint changes."""
    before = page.text_content("#to-do")
    make()
    page.wait_for_function(
        "before => document.querySelector('#to-do')?.textContent !== before", arg=before
    )


def _find(page: Any, count: int) -> list[str]:
    """Presses the button; returns what is wrong with what appears."""
    begun = time.monotonic()
    page.click("#find")
    page.wait_for_selector("#results .cards.done")
    print(f"{count} images in {time.monotonic() - begun:.1f} s")
    cards = page.locator("#results .card")
    if cards.count() != count:
        return [f"{cards.count()} images were searched, expected {count}"]
    shown = page.evaluate("[...document.querySelectorAll('.card img')].map(x => x.naturalWidth)")
    return [] if len(shown) == 3 * count and all(shown) else [f"images are missing: {shown}"]


def _choose(page: Any, number: int) -> None:
    """Clicks a support, and waits some seconds until the editor shows it."""
    with page.expect_request("**/queue/join**"):
        page.locator("#chosen button.thumbnail-lg").nth(number).click()
    page.wait_for_timeout(4000)


def _paint(page: Any) -> None:
    """Paints over the middle of the image in the editor."""
    canvas = page.locator("#editor canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    reach = min(box["width"], box["height"]) / 8
    page.mouse.move(x - reach, y - reach)
    page.mouse.down()
    for step in range(9):
        page.mouse.move(x + reach * (-1) ** step, y + reach * (step / 4 - 1), steps=6)
    page.mouse.up()
    page.wait_for_timeout(1500)


def _save_small(screenshot: bytes, path: Path) -> None:
    """Saves the upper part of a screenshot, small enough for a README."""
    with Image.open(io.BytesIO(screenshot)) as opened:
        upper = opened.convert("RGB").crop((0, 0, opened.width, _README_HEIGHT))
    upper.thumbnail((_README_WIDTH, _README_HEIGHT))
    upper.quantize(96).save(path, optimize=True)


def _foreign(url: str) -> list[str]:
    parts = urlparse(url)
    if parts.scheme in ("data", "blob", "about") or parts.hostname in _LOCAL:
        return []
    return [f"a request for {url}"]


if __name__ == "__main__":
    main()
