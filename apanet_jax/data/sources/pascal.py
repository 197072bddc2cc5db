"""PASCAL-5i's pictures: VOC 2012 and SBD from their official trees."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io
from jaxtyping import UInt8

from apanet_jax.data.source import (
    Sample,
    Split,
    check_same_size,
    read_bytes,
    read_image_size,
    read_label,
    read_names,
)
from apanet_jax.runtime.errors import UserError

CLASS_NAMES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
FOLDS = tuple(CLASS_NAMES[i : i + 5] for i in range(0, 20, 5))
EXPECTED = {"train": 5953, "val": 1449}


class PascalSource:
    """VOC's train list united with SBD's, where VOC's own label wins; VOC's val list.

    SBD's list is `train_noval.txt`, or without that file SBD's train list minus every picture of
    VOC's segmentation val list; the count tells whether that is the protocol's list.
    """

    name = "pascal"
    class_names = CLASS_NAMES
    folds = FOLDS

    def __init__(self, voc: Path, sbd: Path, *, any_count: bool = False):
        """Finds the trees and makes the lists.

        Args:
          voc: `VOCdevkit/VOC2012`, or a folder above it.
          sbd: `benchmark_RELEASE`, or its `dataset`.
          any_count: whether lists of other lengths than the protocol's are accepted.

        Raises:
          UserError: a part is missing, or a list has another length.
        """
        self._voc = _find(
            Path(voc), ("", "VOC2012", "VOCdevkit/VOC2012"), "SegmentationClass", "--voc"
        )
        self._sbd = _find(Path(sbd), ("", "dataset", "benchmark_RELEASE/dataset"), "cls", "--sbd")
        self.origin = f"{self._voc.resolve()} {self._sbd.resolve()}"
        sets = self._voc / "ImageSets" / "Segmentation"
        own, val = read_names(sets / "train.txt"), read_names(sets / "val.txt")
        self._own = set(own)
        self._names = {"train": united(own, self._sbd_names(val))}
        self._names["val"] = val
        for split, count in EXPECTED.items():
            found = len(self._names[split])
            if found != count and not any_count:
                raise UserError(
                    f"the {split} list has {found} pictures, the protocol's has {count}: check the "
                    "trees (is SBD's train_noval.txt there?), or accept it with --any_count"
                )

    def _sbd_names(self, val: list[str]) -> list[str]:
        given = self._sbd / "train_noval.txt"
        if given.exists():
            return read_names(given)
        return [name for name in read_names(self._sbd / "train.txt") if name not in set(val)]

    def names(self, split: Split) -> list[str]:
        """Returns the names of a split's pictures."""
        return list(self._names[split])

    def read(self, split: Split, name: str) -> Sample:
        """Returns a picture with VOC's label, or with SBD's where VOC has none."""
        if split == "val" or name in self._own:
            path = self._voc / "JPEGImages" / f"{name}.jpg"
            label = read_label(self._voc / "SegmentationClass" / f"{name}.png", len(CLASS_NAMES))
        else:
            path = self._voc / "JPEGImages" / f"{name}.jpg"
            if not path.exists():
                path = self._sbd / "img" / f"{name}.jpg"
            label = _read_mat(self._sbd / "cls" / f"{name}.mat")
        image = read_bytes(path)
        check_same_size(path, read_image_size(image, path), label)
        return Sample(name, image, label)


def united(own: Sequence[str], sbd: Sequence[str]) -> list[str]:
    """Returns the training list: VOC's names, then those of SBD's that are not among them."""
    there = set(own)
    return [*own, *(name for name in sbd if name not in there)]


def _find(root: Path, below: tuple[str, ...], mark: str, flag: str) -> Path:
    for part in below:
        if (root / part / mark).is_dir():
            return root / part
    raise UserError(f"{root} holds no {mark} folder: name the official tree with {flag}")


def _read_mat(path: Path) -> UInt8[np.ndarray, "height width"]:
    try:
        label = scipy.io.loadmat(path)["GTcls"]["Segmentation"][0, 0]
    except Exception as error:
        # What scipy raises for a damaged file has no common kind.
        raise UserError(f"{path} is no SBD label that can be read (GTcls.Segmentation)") from error
    label = np.asarray(label)
    if label.ndim != 2 or not np.isin(label, [*range(len(CLASS_NAMES) + 1), 255]).all():
        raise UserError(f"{path} holds other ids than 0 to {len(CLASS_NAMES)} and 255")
    return label.astype(np.uint8)
