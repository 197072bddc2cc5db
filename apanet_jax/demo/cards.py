"""What the page shows of each query, as HTML that needs no other file."""

import base64
from collections.abc import Iterator
from html import escape

import cv2
import numpy as np
from jaxtyping import UInt8

from apanet_jax.demo.visit import Query, Visit
from apanet_jax.inference.answer import Answer
from apanet_jax.inference.matcher import Matcher
from apanet_jax.inference.prediction_files import shrunk
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.reports import overlays

CLUSTERS = 3
_SHOWN_SIDE, _THUMBNAIL_SIDE = 512, 128
_JPEG_QUALITY = 88

EXPLANATION = """\
<p class="words">The mask shows where the object is <i>if the image shows one</i>. Whether it does
is a separate guess: “found” is a score above 0.5, the estimated probability, calibrated on drawn
images. The clusters show which parts of the image are alike to the network: in training the
class-agnostic branch learns from them, here they change nothing.</p>"""


def cards(visit: Visit, matcher: Matcher) -> Iterator[str]:
    """Yields HTML for all queries segmented so far, one more each time.

    Raises:
      UserError: the supports cannot be used.
    """
    segmenter = Segmenter(matcher).fit(
        [support.image for support in visit.supports],
        [support.mask for support in visit.supports],
    )
    done: list[str] = []
    for query, answer in zip(
        visit.queries, segmenter.answers(query.image for query in visit.queries), strict=True
    ):
        done.append(_card(query, answer, segmenter))
        left = len(visit.queries) - len(done)
        rest = f"<p>Segmenting: {left} to go …</p>" if left else ""
        finished = "" if left else " done"
        yield f'{EXPLANATION}<div class="cards{finished}">{"".join(done)}{rest}</div>'


def thumbnails(visit: Visit) -> str:
    """Returns the queries as a strip of small images."""
    shown = [
        f'<img src="{_jpeg(shrunk(image, _THUMBNAIL_SIDE))}" alt="{escape(name)}" '
        f'title="{escape(name)}">'
        for name, image in visit.queries
    ]
    return f'<div class="strip">{"".join(shown)}</div>' if shown else ""


def _card(query: Query, answer: Answer, segmenter: Segmenter) -> str:
    mask, small = answer.mask(0), shrunk(query.image, _SHOWN_SIDE)
    small_mask = shrunk(mask.astype(np.uint8), _SHOWN_SIDE) > 0
    probability = shrunk(np.round(255 * answer.probability(0)).astype(np.uint8), _SHOWN_SIDE)
    images = [
        ("mask", overlays.overlay(small, small_mask, overlays.PREDICTION)),
        ("probability, dark 0 to bright 1", _heat(probability)),
    ]
    if segmenter.has_clusters:
        clusters = overlays.cluster_map(small, segmenter.clusters(small, CLUSTERS))
        images.append((f"{CLUSTERS} clusters", clusters))
    figures = "".join(
        f'<figure><img src="{_jpeg(image)}" alt="{escape(what)} of {escape(query.name)}">'
        f"<figcaption>{escape(what)}</figcaption></figure>"
        for what, image in images
    )
    found, score = bool(answer.found[0]), float(answer.scores[0])
    return (
        f'<section class="card"><h3>{escape(query.name)}</h3>'
        f'<p><b class="{"found" if found else "missed"}">{"found" if found else "not found"}</b>, '
        f"a guess: the score is {score:.2f}, above 0.5 counts as found. The mask "
        f"covers {100 * mask.mean():.0f} % of the image. "
        f'<a download="mask.png" href="{_data("png", _encoded(mask * np.uint8(255), ".png"))}">'
        f'Save the mask</a></p><div class="three">{figures}</div></section>'
    )


def _heat(values: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    return np.ascontiguousarray(cv2.applyColorMap(values, cv2.COLORMAP_INFERNO)[..., ::-1])


def _jpeg(image: UInt8[np.ndarray, "height width 3"]) -> str:
    encoded = _encoded(image[..., ::-1], ".jpg", cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
    return _data("jpeg", encoded)


def _encoded(values: np.ndarray, ending: str, *options: int) -> bytes:
    return cv2.imencode(ending, values, options)[1].tobytes()


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
