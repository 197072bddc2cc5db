"""What the page shows of each query, as HTML that needs no other file."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

import cv2
import numpy as np
from jaxtyping import UInt8

from apanet_jax.demo.visit import COLOURS, Image, Label, Query, Size
from apanet_jax.inference.answers.answer import Answer
from apanet_jax.inference.files.prediction_files import png, shrunk
from apanet_jax.reports import overlays

_SHOWN_SIDE = 512
_JPEG_QUALITY = 88

_EXPLANATION = """\
<p class="words">A mask shows where the class is <i>if the image shows it</i>. Whether it does is a
separate guess: “found” is a score above 0.5. With several classes, those that were not found are
left out. Is a mask wrong? Click its image in step 4, correct it, and press the button again.</p>"""


def page_of(cards: Sequence[str], left: int, links: Mapping[str, tuple[str, str]]) -> str:
    """Returns all cards, with what is still to come.

    Args:
      cards: see `card`.
      left: how many queries are not segmented yet.
      links: by what is said of them, names and addresses of files to download.
    """
    rest = f"<p>Segmenting: {left} to go …</p>" if left else ""
    saved = ", ".join(
        f'<a download="{name}" href="{address}">{said}</a>'
        for said, (name, address) in links.items()
    )
    if saved:
        saved = (
            f'<p class="words downloads">Download the masks of all images, painted and found: '
            f"{saved}. Classes that were not found are left out of these.</p>"
        )
    finished = "" if left else " done"
    return f'{_EXPLANATION}{saved}<div class="cards{finished}">{"".join(cards)}{rest}</div>'


def card(query: Query, answer: Answer, order: Sequence[int], classes: Sequence[str]) -> str:
    """Returns what is shown of a query.

    Args:
      query: with the mask that was found.
      answer: what was found.
      order: the numbers in the answer of the page's classes.
      classes: their names.
    """
    best = int(np.argmax(answer.scores[order]))
    levels = shrunk(answer.probability_levels(order[best]), _SHOWN_SIDE)
    images = [
        ("mask", tinted(shrunk(query.image, _SHOWN_SIDE), shrunk(query.label, _SHOWN_SIDE))),
        (f"probability of {classes[best]}, dark 0 to bright 1", _heat(levels)),
    ]
    figures = "".join(
        f'<figure><img src="{_jpeg(image)}" alt="{escape(what)} in {escape(query.name)}">'
        f"<figcaption>{escape(what)}</figcaption></figure>"
        for what, image in images
    )
    said = "; ".join(
        _said(name, number, bool(answer.found[old]), float(answer.scores[old]))
        for number, (name, old) in enumerate(zip(classes, order, strict=True))
    )
    share = 100 * np.mean(query.label > 0)
    label = enlarged(query.label, query.full_size)
    content = png(label * np.uint8(255) if len(classes) == 1 else label)
    what = "Save the mask" if len(classes) == 1 else "Save the label map"
    return (
        f'<section class="card"><h3>{escape(query.name)}</h3><p>{said}. The mask covers '
        f'{share:.0f} % of the image. <a download="mask.png" href="{data("image/png", content)}">'
        f'{what}</a></p><div class="figures">{figures}</div></section>'
    )


def tinted(image: Image, label: Label | None) -> Image:
    """Returns an image with the classes on it in their colours."""
    if label is None:
        return image
    for number in np.unique(label):
        if 0 < number <= len(COLOURS):
            image = overlays.overlay(image, label == number, COLOURS[number - 1])
    return image


def legend(classes: Sequence[str]) -> str:
    """Returns the colours of several classes, as HTML; nothing for one."""
    if len(classes) < 2:
        return ""
    shown = "".join(
        f'<span><i style="background: rgb{colour}"></i>{escape(name)}</span>'
        for name, colour in zip(classes, COLOURS, strict=False)
    )
    return f'<div class="legend">{shown}</div>'


def enlarged(values: np.ndarray, size: Size) -> np.ndarray:
    """Returns a label map, or probabilities, at the size of the file's image."""
    if values.shape == size:
        return values
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST)


def data(kind: str, content: bytes) -> str:
    """Returns an address that holds a file's content itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _said(name: str, number: int, found: bool, score: float) -> str:
    colour = f'<i style="background: rgb{COLOURS[number]}"></i>'
    word = f'<b class="{"found" if found else "missed"}">{"found" if found else "not found"}</b>'
    return f'<span class="legend"><span>{colour}{escape(name)}</span></span> {word}, {score:.2f}'


def _heat(values: UInt8[np.ndarray, "height width"]) -> Image:
    return np.ascontiguousarray(cv2.applyColorMap(values, cv2.COLORMAP_INFERNO)[..., ::-1])


def _jpeg(image: Image) -> str:
    encoded = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))[1]
    return data("image/jpeg", encoded.tobytes())
