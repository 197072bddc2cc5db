"""Finds a visit's classes in its queries, and makes of all its masks files for annotation tools."""

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath

import numpy as np
from jaxtyping import UInt8

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.demo import cards
from apanet_jax.demo.visit import Label, Query, Support, Visit, classes_on
from apanet_jax.inference.answers.answer import Answer
from apanet_jax.inference.files.formats.coco import CocoFileWriter
from apanet_jax.inference.files.formats.instances import AnnotatedImage, instances
from apanet_jax.inference.files.formats.labelme import labelme_file
from apanet_jax.inference.matching.matcher import Matcher
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.atomic_files import json_bytes


def found(visit: Visit, matcher: Matcher) -> Iterator[tuple[Visit, str]]:
    """Yields the visit with masks in its queries, and HTML that shows them, one more each time.

    Raises:
      UserError: the supports cannot be used.
    """
    segmenter = fitted(visit, matcher)
    files = _Downloads(visit)
    queries, done = list(visit.queries), []
    answers = segmenter.answers(query.image for query in visit.queries)
    # The segmenter has the classes in the order in which they came; the page has its own.
    order = [segmenter.classes_.index(name) for name in visit.classes]
    for number, (query, answer) in enumerate(zip(visit.queries, answers, strict=True)):
        label = _in_order(answer.labels(), order)
        shown = answer.mask(0).astype(np.uint8) if len(order) == 1 else label
        queries[number] = query._replace(label=shown)
        files.add(query, label, answer.scores[order], _levels(answer, order))
        done.append(cards.card(queries[number], answer, order, visit.classes))
        left = len(queries) - len(done)
        links = {} if left else files.links()
        yield visit._replace(queries=tuple(queries)), cards.page_of(done, left, links)


def fitted(visit: Visit, matcher: Matcher) -> Segmenter:
    """Returns a segmenter that has learned from a visit's supports, each for the classes on it.

    Raises:
      UserError: they cannot be used.
    """
    images, masks, names = [], [], []
    for support in visit.supports:
        for number in classes_on(support):
            mask = (support.label == number + 1).astype(np.uint8)
            mask[support.label == IGNORE] = IGNORE
            images.append(support.image)
            masks.append(mask)
            names.append(visit.classes[number])
    return Segmenter(matcher).fit(images, masks, names)


def _levels(answer: Answer, order: list[int]) -> Callable[[int], UInt8[np.ndarray, "h w"]]:
    return lambda number: answer.probability_levels(order[number])


def _in_order(labels: Label, order: list[int]) -> Label:
    table = np.zeros(256, np.uint8)
    for new, old in enumerate(order):
        table[old + 1] = new + 1
    return table[labels]


class _Downloads:
    """The masks of all images of a visit: what is painted, and what is found.

    They have the size of the files that were uploaded.
    """

    def __init__(self, visit: Visit):
        self._classes, self._stems = visit.classes, set()
        self._coco, self._content = CocoFileWriter(visit.classes), io.BytesIO()
        self._labelme = zipfile.ZipFile(self._content, "w", zipfile.ZIP_DEFLATED)
        for support in visit.supports:
            label = support.label.copy()
            label[label == IGNORE] = 0
            whole = np.full(label.shape, 255, np.uint8)
            self.add(support, label, np.ones(len(self._classes)), lambda _, x=whole: x)

    def add(
        self,
        image: Support | Query,
        label: Label,
        scores: Sequence[float],
        levels: Callable[[int], UInt8[np.ndarray, "height width"]],
    ) -> None:
        """Adds the instances of an image: see `instances`."""
        size, name = image.full_size, self._unused(image.name)
        parts = instances(
            cards.enlarged(label, size), scores, lambda i: cards.enlarged(levels(i), size)
        )
        annotated = AnnotatedImage(name, size, parts)
        self._coco.add(annotated)
        content = json_bytes(labelme_file(annotated, self._classes))
        self._labelme.writestr(f"{PurePath(name).stem}.json", content)

    def links(self) -> dict[str, tuple[str, str]]:
        """Returns by what is said of them the files' names and content, as data: addresses."""
        self._labelme.close()
        coco = cards.data("application/json", json_bytes(self._coco.content))
        labelme = cards.data("application/zip", self._content.getvalue())
        return {"COCO": ("coco.json", coco), "LabelMe": ("labelme.zip", labelme)}

    def _unused(self, name: str) -> str:
        """Returns a name whose stem, which LabelMe's file has too, no other image has."""
        path, number = PurePath(name), 1
        unused = path
        while unused.stem in self._stems:
            number += 1
            unused = path.with_stem(f"{path.stem}_{number}")
        self._stems.add(unused.stem)
        return unused.name
