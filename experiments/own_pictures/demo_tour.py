"""Does in a browser what a visitor of `apanet_jax.demo` does, and checks that it works.

    pip install playwright
    python experiments/own_pictures/demo_tour.py --support=IMAGE [--support=IMAGE …] --queries=DIR \
        --output=DIR [--mask=FILE …] [--below=/PATH] [--chromium=/usr/bin/chromium] \
        [--workdir=WORKDIR] [--head=HEAD] [--port=7871]

It takes a sample and finds its class; then it uploads the supports with their masks, paints over
the middle of each that has none with the mouse, uploads the queries and finds again. It paints a
second class on a support, finds both, corrects the first mask that was found, and asks again; then
it makes a visitor's mistakes. It returns 1 unless masks appear each time, the downloads are of all
images, the page answers every mistake, nothing is wider than a phone, and no request leaves this
machine, or leaves /PATH where a proxy serves the page below it. DIR then holds screenshots of the
page at the widths of a desk and a phone, and demo.png for the README.
"""

import argparse
import base64
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.images.image_files import find_images
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.own_pictures.reverse_proxy import proxied

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}
_PATIENCE = 300_000
"""Milliseconds for anything to appear."""
_README_WIDTH, _README_HEIGHT = 800, 1560
_LOCAL = ("127.0.0.1", "localhost")


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    support = {"action": "append", "required": True, "metavar": "IMAGE"}
    parser.add_argument("--support", **support, help="to paint on, in its middle")
    parser.add_argument(
        "--mask", action="append", default=[], metavar="FILE", help="of supports, by its name"
    )
    parser.add_argument("--below", default="", metavar="/PATH", help="where a proxy serves it")
    parser.add_argument("--queries", required=True, help="a folder with 1 to 12 images to search")
    parser.add_argument("--output", type=Path, required=True, help="where screenshots go")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser")
    parser.add_argument("--workdir", help="another head than that of the package")
    parser.add_argument("--head", help="which of those of the package")
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
    command += [f"--head={given.head}"] if given.head else []
    command += [f"--root-path={given.below}"] if given.below else []
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, cwd=harness.ROOT, stdout=pipe, stderr=pipe, text=True)
    try:
        line = server.stdout.readline()
        if not line.startswith("open "):
            raise UserError(f"the page did not start: {server.stderr.read()}")
        address = line.split()[1]
        with contextlib.ExitStack() as opened:
            if given.below:
                address = opened.enter_context(proxied(address, given.below, given.port + 1))
            playwright = opened.enter_context(sync_playwright())
            browser = playwright.chromium.launch(executable_path=given.chromium, args=list(_FLAGS))
            for name, (width, height) in _WIDTHS.items():
                page = browser.new_page(viewport={"width": width, "height": height})
                wrong += [f"{name}: {x}" for x in _tour(page, address, given, name)]
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
    page.on("request", lambda request: wrong.extend(_foreign(request.url, given.below)))
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
    page.set_input_files("#supports input[type=file]", [*given.support, *given.mask])
    page.wait_for_selector("#editor canvas")
    page.set_input_files("#queries input[type=file]", queries)
    page.wait_for_selector("#strip img")
    for number in range(len(given.support)):
        if len(given.support) > 1:
            _choose(page, "chosen", number)
        if f"{number + 1}: paint" in (page.text_content("#chosen") or "1: paint"):
            _paint(page)
    shoot("painted")
    wrong += _find(page, len(queries))
    wrong += _downloads(page, len(given.support) + len(queries))
    shoot("own")

    page.fill("#new-class input, #new-class textarea", "corner")
    page.get_by_role("button", name="Add").click()
    page.wait_for_selector("#legend .legend")
    page.wait_for_timeout(2000)
    _paint(page, 0.4)
    wrong += _find(page, len(queries))
    shoot("classes")
    _choose(page, "strip", 0)
    _mistake(page, lambda: page.get_by_label("rub out").check())
    page.wait_for_timeout(2000)
    _paint(page)
    page.get_by_label("corner").check()
    page.wait_for_timeout(2000)
    _paint(page, 0.4)
    shoot("corrected")
    wrong += _find(page, len(queries) - 1)
    wrong += _downloads(page, len(given.support) + len(queries))
    shoot("again")

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "notes.png"
        text.write_text("no image")
        _mistake(page, lambda: page.set_input_files("#queries input[type=file]", text))
        many = _copies(given.support[0], 11, Path(folder))
        _mistake(page, lambda: page.set_input_files("#supports input[type=file]", many))
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
    # What was found before is there until the first of the new.
    page.evaluate("document.querySelectorAll('.cards').forEach(x => x.classList.remove('done'))")
    page.click("#find")
    page.wait_for_selector("#results .cards.done")
    print(f"{count} images in {time.monotonic() - begun:.1f} s")
    cards = page.locator("#results .card")
    if cards.count() != count:
        return [f"{cards.count()} images were searched, expected {count}"]
    shown = page.evaluate("[...document.querySelectorAll('.card img')].map(x => x.naturalWidth)")
    return [] if len(shown) == 2 * count and all(shown) else [f"images are missing: {shown}"]


def _downloads(page: Any, count: int) -> list[str]:
    """Returns what is wrong with the files to download, which are of so many images."""
    links = page.locator("#results .downloads a")
    contents = [links.nth(i).get_attribute("href").partition(",")[2] for i in range(links.count())]
    if len(contents) != 2:
        return [f"{len(contents)} downloads, expected 2"]
    coco, labelme = (base64.b64decode(x) for x in contents)
    coco = json.loads(coco)
    print(f"{len(coco['annotations'])} instances in {len(coco['images'])} images")
    with zipfile.ZipFile(io.BytesIO(labelme)) as opened:
        names = opened.namelist()
    right = len(coco["images"]) == len(names) == count and coco["annotations"]
    return [] if right else [f"downloads of {len(coco['images'])} and {len(names)} images"]


def _copies(image: str, count: int, folder: Path) -> list[Path]:
    paths = [folder / f"{number}{Path(image).suffix}" for number in range(count)]
    for path in paths:
        path.write_bytes(Path(image).read_bytes())
    return paths


def _choose(page: Any, gallery: str, number: int) -> None:
    """Clicks an image, and waits some seconds until the editor shows it."""
    with page.expect_request("**/queue/join**"):
        page.locator(f"#{gallery} button.thumbnail-lg").nth(number).click()
    page.wait_for_timeout(4000)


def _paint(page: Any, at: float = 0.5) -> None:
    """Paints in the editor, over the image's middle or at another share of its sides."""
    canvas = page.locator("#editor canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] * at, box["y"] + box["height"] * at
    reach = min(box["width"], box["height"]) / 8
    # The editor takes no stroke that begins beside the image.
    page.mouse.move(x, y)
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


def _foreign(url: str, below: str) -> list[str]:
    parts = urlparse(url)
    if parts.scheme in ("data", "blob", "about"):
        return []
    if parts.hostname in _LOCAL and parts.path.startswith(below):
        return []
    return [f"a request for {url}"]


if __name__ == "__main__":
    main()
