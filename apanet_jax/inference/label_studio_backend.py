"""Label Studio's pre-annotation with a few supports: a backend for `label-studio-ml`.

What annotators save becomes supports; what they open next comes with masks of the classes that are
in them. `label_studio_server` serves it. It needs `label-studio-ml`, which this module imports.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from apanet_jax.data.annotations.label_studio_files import label_studio_outlines
from apanet_jax.data.annotations.outlines import NOT_UNDERSTOOD, paint
from apanet_jax.data.images.image_files import warn
from apanet_jax.data.images.reader import read_image
from apanet_jax.inference import segmenter
from apanet_jax.inference.files.formats.instances import Instance, instances
from apanet_jax.runtime.atomic_files import json_bytes, write_bytes
from apanet_jax.runtime.errors import UserError, needs

with needs("label-studio-ml label-studio-sdk", "the backend for Label Studio"):
    from label_studio_ml.model import LabelStudioMLBase
    from label_studio_sdk.converter.brush import mask2rle

SUPPORTS, WORKDIR = "APANET_JAX_SUPPORTS", "APANET_JAX_WORKDIR"
"""Variables of the environment: the folder that keeps the supports, and the workdir of a head."""
_REMOVED = "ANNOTATION_DELETED"
_fitted: dict[str, segmenter.Segmenter] = {}
"""The last segmenter, by what its supports were."""


class _Tag(NamedTuple):
    """The brush of a project: its name, that of its image, and where a task has the image."""

    name: str
    image: str
    key: str


class FewShotBackend(LabelStudioMLBase):
    """Finds in each task's image what saved annotations of other tasks show."""

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], context: Any = None, **_: Any
    ) -> list[dict[str, Any]]:
        """Returns a prediction for each task: the connected parts that were found, as brush masks.

        Empty while there are no supports.
        """
        tag, fitted = self._tag(), self._segmenter()
        return [self._prediction(task, tag, fitted) for task in tasks]

    def fit(
        self, tasks: Any = (), data: Any = None, event: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Keeps saved annotations as supports.

        Args:
          tasks: annotated ones; or the name of an event, which `label-studio-ml` 2 puts first.
          data: of the event, with `task` and `annotation`.
          event: its name, as `label-studio-ml` 1 says it.
        """
        if isinstance(tasks, str):
            event, tasks = tasks, ()
        if isinstance(data, Mapping) and data.get("task"):
            tasks = [{**data["task"], "annotations": [data["annotation"]]}]
        for task in tasks:
            file = support_folder() / f"{int(task['id'])}.json"
            if event == _REMOVED:
                file.unlink(missing_ok=True)
            elif task.get("annotations"):
                # The form of an export, which other commands read as masks.
                kept = {"id": task["id"], "data": task["data"], "annotations": task["annotations"]}
                write_bytes(file, json_bytes([kept]))
        return {"supports": len(_files())}

    def _segmenter(self) -> segmenter.Segmenter | None:
        """Returns a segmenter that has learned from the supports, None while there are none."""
        supports = list(self._supports())
        if not supports:
            return None
        contents = hashlib.sha256(b"".join(x.read_bytes() for x in _files())).hexdigest()
        if contents not in _fitted:
            images, masks, names = zip(*supports, strict=True)
            empty = segmenter.load(os.environ.get(WORKDIR) or None)
            _fitted.clear()
            _fitted[contents] = empty.fit(images, masks, names)
        return _fitted[contents]

    def _supports(self) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
        """Yields images with masks and the names of their classes; others are told of."""
        key = self._tag().key
        for file in _files():
            task = json.loads(file.read_bytes())[0]
            try:
                found = label_studio_outlines([task]).images
                image = self._image(task, key) if found else None
                for name in sorted({x.label for entry in found for x in entry.outlines}):
                    outlines = [x for x in found[0].outlines if x.label == name]
                    yield image, paint(outlines, {name: 1}, *image.shape[:2]), name
            except (UserError, *NOT_UNDERSTOOD) as error:
                warn(f"left out: the annotation of task {task['id']}: {error}")

    def _prediction(
        self, task: Mapping[str, Any], tag: _Tag, fitted: segmenter.Segmenter | None
    ) -> dict[str, Any]:
        if fitted is None:
            return {"result": [], "score": 0.0}
        image = self._image(task, tag.key)
        answer = next(fitted.answers([image]))
        found = instances(answer.labels(), answer.scores, answer.probability_levels)
        regions = [_region(x, fitted.classes_, tag, image.shape[:2]) for x in found]
        return {"result": regions, "score": min((x.score for x in found), default=0.0)}

    def _image(self, task: Mapping[str, Any], key: str) -> np.ndarray:
        return read_image(Path(self.get_local_path(task["data"][key]))).image

    def _tag(self) -> _Tag:
        for name, tag in self.parsed_label_config.items():
            if tag["type"].lower() == "brushlabels":
                return _Tag(name, tag["to_name"][0], tag["inputs"][0]["value"])
        raise UserError("the project's labelling interface has no BrushLabels: masks need them")


def _region(
    found: Instance, classes: Sequence[str], tag: _Tag, size: tuple[int, int]
) -> dict[str, Any]:
    mask = found.full_mask(size).astype(np.uint8) * 255
    return {
        "from_name": tag.name,
        "to_name": tag.image,
        "type": "brushlabels",
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": mask2rle(mask),
            "brushlabels": [classes[found.class_index]],
        },
        "score": found.score,
    }


def support_folder() -> Path:
    """Returns the folder that keeps the supports.

    Raises:
      UserError: it is not named.
    """
    folder = os.environ.get(SUPPORTS)
    if not folder:
        raise UserError(f"{SUPPORTS} is not set: it names the folder that keeps the supports")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def _files() -> list[Path]:
    return sorted(support_folder().glob("*.json"))
