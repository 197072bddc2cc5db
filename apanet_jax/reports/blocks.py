"""What the pages are made of: the frame with its style sheet, sections, numbers, pictures.

Numbers that a run measured stand in `<data value="…">` with all their digits.
"""

import base64
import io
import string
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from PIL import Image

REFRESH = 30
"""Seconds after which a browser reads an unfinished page again."""

SMOOTHING = 20
"""A loss is smoothed over one in so many of its points."""

_QUALITY = 85
"""Of the pictures, of 100."""

_TEMPLATE = string.Template(Path(__file__).with_name("page.html").read_text())


def page(title: str, body: Iterable[str], *, live: bool) -> str:
    """Returns a whole page.

    Args:
      title: as text.
      body: HTML of its parts.
      live: whether it will be written again soon.
    """
    now = datetime.now(UTC)
    written = (
        f'<p class="note">Written <time datetime="{now.isoformat(timespec="seconds")}">'
        f"{now:%Y-%m-%d %H:%M} UTC</time> by apanet_jax."
        + f" A browser reads it again every {REFRESH} seconds." * live
        + "</p>"
    )
    refresh = f'\n<meta http-equiv="refresh" content="{REFRESH}">' if live else ""
    return _TEMPLATE.substitute(
        title=escape(title), refresh=refresh, body="\n".join([*filter(None, body), written])
    )


def section(heading: str, content: str) -> str:
    """Returns a card with a heading (text) and content (HTML); "" without content."""
    return f"<section><h2>{escape(heading)}</h2>{content}</section>" if content else ""


def data(value: float, text: str) -> str:
    """Returns a number that is shown as `text`."""
    return f'<data value="{value!r}">{escape(text)}</data>'


def percent(value: float | None) -> str:
    """Returns a number with one digit; "" for None."""
    return "" if value is None else data(value, f"{value:.1f}")


def heads(names: Iterable[str], words: int = 1) -> str:
    """Returns the heads of a table's columns, which break between words only.

    Args:
      names: as text.
      words: how many of the first columns hold words, not numbers.
    """
    cells = []
    for column, name in enumerate(names):
        kind = ' class="word"' if column < words else ""
        parts = " ".join(f"<span>{escape(part)}</span>" for part in name.split())
        cells.append(f"<th{kind}>{parts}</th>")
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def score_heads(shots: Iterable[int]) -> list[str]:
    """Returns the heads of mIoU and FB-IoU at each shot."""
    return [head for shot in shots for head in (f"{shot}-shot mIoU", "FB-IoU")]


def chart_row(charts: Iterable[str]) -> str:
    """Returns charts side by side, as far as there is room."""
    found = "".join(charts)
    return f'<div class="charts">{found}</div>' if found else ""


def picture_list(pictures: Sequence[Path]) -> str:
    """Returns pictures of test episodes, with their bytes; "" where there are none."""
    if not pictures:
        return ""
    shown = "".join(map(_picture, pictures))
    return (
        f'<div class="pictures">{shown}</div><p class="note">Left to right: the support '
        "with its mask, the query with the truth, what was found, and the clusters of the query's "
        "own features.</p>"
    )


def _picture(path: Path) -> str:
    # As PNG, a dozen of them would be megabytes.
    encoded = io.BytesIO()
    with Image.open(path) as picture:
        width, height = picture.size
        picture.save(encoded, "WEBP", quality=_QUALITY)
    return (
        f'<div class="wide"><img alt="{escape(path.stem)}" width="{width}" height="{height}" '
        f'src="data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"></div>'
    )
