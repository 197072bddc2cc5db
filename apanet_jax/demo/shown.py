"""What the page shows of each query: pictures and words, as HTML that asks for no other file."""

import base64
from collections.abc import Iterator
from html import escape

import cv2
import numpy as np
from jaxtyping import UInt8

from apanet_jax.demo.given import Given, Query
from apanet_jax.inference.matchers import Matcher
from apanet_jax.inference.prediction_files import fitted
from apanet_jax.inference.segmenter import Answer, Segmenter
from apanet_jax.reports import overlays

CLUSTERS = 3
_SHOWN_SIDE, _THUMBNAIL_SIDE = 512, 128
_JPEG_QUALITY = 88

WORDS = """\
<p class="words">The mask says where the thing is <i>if it is there</i>. Whether it is, “found”
says, a guess of its own: so look at the scores too, which are how likely it is there, fitted to
drawn pictures. The clusters are what looks alike to the network within the picture; in training the
second branch learns from them, here they change nothing.</p>"""


def cards(given: Given, matcher: Matcher) -> Iterator[str]:
    """Yields HTML for all queries looked at so far, one more each time.

    Raises:
      UserError: the supports cannot be used.
    """
    segmenter = Segmenter(matcher).fit(
        [support.image for support in given.supports],
        [support.mask for support in given.supports],
    )
    done: list[str] = []
    for query, answer in zip(
        given.queries, segmenter.answers(query.image for query in given.queries), strict=True
    ):
        done.append(_card(query, answer, segmenter))
        left = len(given.queries) - len(done)
        rest = f"<p>Looking: {left} to go …</p>" if left else ""
        yield f'{WORDS}<div class="cards{"" if left else " done"}">{"".join(done)}{rest}</div>'


def thumbnails(given: Given) -> str:
    """Returns the queries as a strip of small pictures."""
    shown = [
        f'<img src="{_jpeg(fitted(image, _THUMBNAIL_SIDE))}" alt="{escape(name)}" '
        f'title="{escape(name)}">'
        for name, image in given.queries
    ]
    return f'<div class="strip">{"".join(shown)}</div>' if shown else ""


def _card(query: Query, answer: Answer, segmenter: Segmenter) -> str:
    mask, small = answer.mask(0), fitted(query.image, _SHOWN_SIDE)
    small_mask = fitted(mask.astype(np.uint8), _SHOWN_SIDE) > 0
    probability = fitted(np.round(255 * answer.probability(0)).astype(np.uint8), _SHOWN_SIDE)
    pictures = [
        ("mask", overlays.overlay(small, small_mask, overlays.PREDICTION)),
        ("probability, dark 0 to bright 1", _heat(probability)),
    ]
    if segmenter.has_clusters:
        clusters = overlays.cluster_map(small, segmenter.clusters(small, CLUSTERS))
        pictures.append((f"{CLUSTERS} clusters", clusters))
    figures = "".join(
        f'<figure><img src="{_jpeg(image)}" alt="{escape(what)} of {escape(query.name)}">'
        f"<figcaption>{escape(what)}</figcaption></figure>"
        for what, image in pictures
    )
    found, score = bool(answer.found[0]), float(answer.scores[0])
    return (
        f'<section class="card"><h3>{escape(query.name)}</h3>'
        f'<p><b class="{"found" if found else "missed"}">{"found" if found else "not found"}</b>, '
        f"a guess: the score is {score:.2f}, above 0.5 counts as found. The mask "
        f"covers {100 * mask.mean():.0f} % of the picture. "
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
