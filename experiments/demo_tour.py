"""Does in a browser what a visitor of `apanet_jax.demo` does, and says whether it works.

    pip install playwright
    python experiments/demo_tour.py --support=PICTURE --support=PICTURE --queries=DIR --output=DIR \
        [--chromium=/usr/bin/chromium] [--workdir=WORKDIR]

It takes a sample and looks; then it uploads the supports, paints over the middle of each with the
mouse, uploads the queries and looks again; then what a visitor gets wrong. It ends with 1 unless
masks appear each time, every mistake is told on the page, nothing is wider than a phone, and no
request leaves this machine. DIR then holds pictures of the page at the widths of a desk and a
phone, and demo.png for the README.
"""

import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from absl import flags
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from apanet_jax.config.flags import run_command
from apanet_jax.data.image_files import find_images
from apanet_jax.runtime.errors import UserError

_SUPPORTS = flags.DEFINE_multi_string("support", [], "Pictures to paint on, in their middle.")
_QUERIES = flags.DEFINE_string("queries", None, "A folder with 1 to 12 pictures to look through.")
_OUTPUT = flags.DEFINE_string("output", None, "Where the pictures of the page go.")
_CHROMIUM = flags.DEFINE_string("chromium", "/usr/bin/chromium", "The browser.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Another head than that of the package.")
_PORT = flags.DEFINE_integer("port", 7871, "That the page is served on.")

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}
_PATIENCE = 120_000
"""Milliseconds for anything to appear."""
_README_WIDTH, _README_HEIGHT = 800, 1560
_LOCAL = ("127.0.0.1", "localhost")


def main() -> int:
    """Takes the tour at each width; returns 1 if something was not as it should be."""
    if not (_SUPPORTS.value and _QUERIES.value and _OUTPUT.value):
        raise UserError("give --support, --queries and --output")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UserError("this needs playwright: pip install playwright") from error
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    wrong: list[str] = []
    command = [sys.executable, "-m", "apanet_jax.demo", f"--port={_PORT.value}"]
    if _WORKDIR.value:
        command.append(f"--workdir={_WORKDIR.value}")
    server = subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        line = server.stdout.readline()
        if not line.startswith("open "):
            raise UserError(f"the page did not start: {server.stderr.read()}")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=_CHROMIUM.value, args=list(_FLAGS))
            for name, (width, height) in _WIDTHS.items():
                page = browser.new_page(viewport={"width": width, "height": height})
                wrong += [f"{name}: {x}" for x in _tour(page, line.split()[1], output, name)]
                page.close()
            browser.close()
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=60)
    if server.returncode != 143 or errors.strip() != "stopped by the user":
        wrong.append(f"the server ended with {server.returncode} and said {errors!r}")
    print("\n".join(wrong) or "all was as it should be")
    return 1 if wrong else 0


def _tour(page: Any, address: str, output: Path, name: str) -> list[str]:
    """Visits the page once; returns what was wrong."""
    wrong: list[str] = []
    page.set_default_timeout(_PATIENCE)
    page.set_default_navigation_timeout(_PATIENCE)
    page.on("request", lambda request: wrong.extend(_foreign(request.url)))
    page.on("pageerror", lambda error: wrong.append(f"error in the page: {error}"))
    page.goto(address)
    _says(page, "to-paint", "Choose pictures that show the thing")
    page.screenshot(path=output / f"{name}_start.png", full_page=True)

    page.get_by_role("button", name="Sample: butterfly").click()
    _says(page, "to-do", "press the button")
    page.wait_for_selector("#editor canvas")
    page.wait_for_timeout(1500)
    page.screenshot(path=output / f"{name}_filled.png", full_page=True)
    wrong += _look(page, 4)
    page.screenshot(path=output / f"{name}_sample.png", full_page=True)
    if name == "desk":
        _save_small(page.screenshot(full_page=True), output / "demo.png")

    page.get_by_role("button", name="Start over").click()
    _says(page, "to-paint", "Choose pictures that show the thing")
    page.click("#find")
    _says(page, "to-do", "No picture shows the thing yet")
    queries = find_images([_QUERIES.value])
    page.set_input_files("#supports input[type=file]", _SUPPORTS.value)
    _says(page, "to-paint", "Paint over the whole thing")
    page.set_input_files("#queries input[type=file]", queries)
    page.wait_for_selector("#strip img")
    page.click("#find")
    _says(page, "to-do", "Nothing is painted on picture 1")
    for number in range(len(_SUPPORTS.value)):
        if len(_SUPPORTS.value) > 1:
            _choose(page, number)
        _paint(page)
    page.screenshot(path=output / f"{name}_painted.png", full_page=True)
    wrong += _look(page, len(queries))
    page.screenshot(path=output / f"{name}_own.png", full_page=True)

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "notes.png"
        text.write_text("no picture")
        page.set_input_files("#queries input[type=file]", text)
        _says(page, "to-do", "notes.png is no image")
    page.set_input_files("#supports input[type=file]", (_SUPPORTS.value * 6)[:6])
    _says(page, "to-do", "5 at most")
    page.screenshot(path=output / f"{name}_problem.png", full_page=True)
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    if wide > 0:
        wrong.append(f"{wide} pixels wider than the window")
    return wrong


def _look(page: Any, count: int) -> list[str]:
    """Presses the button; returns what is wrong with what appears."""
    begun = time.monotonic()
    page.click("#find")
    page.wait_for_selector("#results .cards.done")
    print(f"{count} pictures in {time.monotonic() - begun:.1f} s")
    cards = page.locator("#results .card")
    if cards.count() != count:
        return [f"{cards.count()} pictures were looked at, expected {count}"]
    shown = page.evaluate("[...document.querySelectorAll('.card img')].map(x => x.naturalWidth)")
    return [] if len(shown) == 3 * count and all(shown) else [f"pictures are missing: {shown}"]


def _choose(page: Any, number: int) -> None:
    """Clicks a support, and waits some seconds until the editor shows it."""
    with page.expect_request("**/queue/join**"):
        page.locator("#chosen button.thumbnail-lg").nth(number).click()
    page.wait_for_timeout(4000)


def _paint(page: Any) -> None:
    """Paints over the middle of the picture in the editor."""
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
    """Saves the upper part of a picture of the page, small enough for a README."""
    with Image.open(io.BytesIO(screenshot)) as opened:
        upper = opened.convert("RGB").crop((0, 0, opened.width, _README_HEIGHT))
    upper.thumbnail((_README_WIDTH, _README_HEIGHT))
    upper.quantize(96).save(path, optimize=True)


def _says(page: Any, where: str, text: str) -> None:
    page.wait_for_selector(f"#{where} >> text={text}")


def _foreign(url: str) -> list[str]:
    parts = urlparse(url)
    if parts.scheme in ("data", "blob", "about") or parts.hostname in _LOCAL:
        return []
    return [f"a request for {url}"]


flags.adopt_module_key_flags(sys.modules[__name__])

if __name__ == "__main__":
    run_command(main)
