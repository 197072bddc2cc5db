"""PASCAL-5i's images: VOC 2012, with SBD's labels from its official tree or as label maps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io
from jaxtyping import UInt8

from apanet_jax.data.sources.lists import count_note, read_image_lists
from apanet_jax.data.sources.source import (
    Sample,
    Split,
    labelled_sample,
    read_label,
    read_names,
    read_source_image,
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

_VOC_PLACES = ("", "VOC2012", "VOCdevkit/VOC2012")
_SBD_PLACES = ("", "dataset", "benchmark_RELEASE/dataset")
_SBD_LIST = "train_noval.txt"


class PascalSource:
    """VOC's training list united with SBD's, where VOC's own label wins; VOC's validation list.

    SBD's list is `train_noval.txt`, or without that file SBD's train list minus every image of
    VOC's segmentation val list; the count tells whether that is the protocol's list. Published
    lists can be given instead (`sources.lists`).
    """

    name = "pascal"
    class_names = CLASS_NAMES
    folds = FOLDS

    def __init__(
        self,
        voc: Path,
        sbd: Path | None = None,
        *,
        labels: str | Path | None = None,
        train_list: Sequence[Path] = (),
        val_list: Sequence[Path] = (),
        any_count: bool = False,
    ):
        """Finds the trees and makes the lists.

        Args:
          voc: `VOCdevkit/VOC2012`, or a folder above it.
          sbd: `benchmark_RELEASE`, or its `dataset`; needed without `labels`.
          labels: a folder of VOC's tree, or a path, with label maps of all images as PNG in place
            of VOC's and SBD's own: `SegmentationClassAug`.
          train_list: list files to train on in place of the united list.
          val_list: list files to test on in place of VOC's.
          any_count: whether lists of other lengths than the protocol's are accepted; those that are
            given always are, with a note.

        Raises:
          UserError: a part is missing, or a list has another length.
        """
        if sbd is None and labels is None:
            raise UserError(
                "SBD's labels are missing: name its tree with --sbd=DIR, or a folder of label maps "
                "with --labels=SegmentationClassAug"
            )
        wanted = "JPEGImages" if labels else "SegmentationClass"
        self._voc = _find(Path(voc), _VOC_PLACES, wanted, "--voc")
        self._sbd = _find(Path(sbd), _SBD_PLACES, "cls", "--sbd") if sbd else None
        self._labels = _label_folder(self._voc, labels) if labels else None
        self._own: set[str] = set()
        lists = {"train": list(train_list), "val": list(val_list)}
        self._names = {"val": self._val(lists["val"]), "train": []}
        self._names["train"] = self._train(lists["train"])
        if both := set(self._names["train"]) & set(self._names["val"]):
            raise UserError(
                f"{len(both)} images are in the training list and in the test list, "
                f"{min(both)} for one: give lists that have none in common"
            )
        trees = [path for path in (self._voc, self._sbd, self._labels) if path]
        self.origin = " ".join(str(path.resolve()) for path in trees)
        self.notes = [
            note
            for split, count in EXPECTED.items()
            for note in count_note(
                split,
                len(self._names[split]),
                count,
                given=bool(lists[split]),
                any_count=any_count,
                hint=f"check the trees (is SBD's {_SBD_LIST} there?)",
            )
        ]

    def names(self, split: Split) -> list[str]:
        """Returns the names of a split's images."""
        return list(self._names[split])

    def read(self, split: Split, name: str) -> Sample:
        """Returns an image with VOC's label, or with SBD's where VOC has none."""
        path = self._voc / "JPEGImages" / f"{name}.jpg"
        if self._labels:
            label = _read_png(self._labels, name)
        elif split == "val" or name in self._own:
            label = _read_png(self._voc / "SegmentationClass", name)
        else:
            label = _read_mat(self._sbd / "cls" / f"{name}.mat")
            path = path if path.exists() else self._sbd / "img" / f"{name}.jpg"
        return labelled_sample(name, *read_source_image(path), label)

    def _val(self, given: Sequence[Path]) -> list[str]:
        return read_image_lists(given) if given else read_names(self._sets() / "val.txt")

    def _train(self, given: Sequence[Path]) -> list[str]:
        own_list = self._sets() / "train.txt"
        if given:
            if not self._labels:
                # VOC's own labels win over SBD's for these.
                self._own = set(read_names(own_list))
            return read_image_lists(given)
        own = read_names(own_list)
        self._own = set(own)
        return united(own, self._sbd_names(self._names["val"]))

    def _sbd_names(self, val: Sequence[str]) -> list[str]:
        places = [self._sets(), self._voc]
        if self._labels:
            places.append(self._labels)
        if self._sbd:
            places.insert(0, self._sbd)
        for place in places:
            if (place / _SBD_LIST).exists():
                return read_names(place / _SBD_LIST)
        if self._sbd:
            held_out = set(val)
            return [n for n in read_names(self._sbd / "train.txt") if n not in held_out]
        raise UserError(
            f"no list of SBD's training images: looked for {_SBD_LIST} in "
            f"{', '.join(map(str, places))}; put it there, or give --train_list=FILE (such as "
            "PFENet's) or --sbd=DIR"
        )

    def _sets(self) -> Path:
        return self._voc / "ImageSets" / "Segmentation"


def united(own: Sequence[str], sbd: Sequence[str]) -> list[str]:
    """Returns the training list: VOC's names, then those of SBD's that are not among them."""
    there = set(own)
    return [*own, *(name for name in sbd if name not in there)]


def _find(root: Path, below: Sequence[str], mark: str, flag: str) -> Path:
    for part in below:
        if (root / part / mark).is_dir():
            return root / part
    places = ", ".join(str(root / part / mark) for part in below)
    raise UserError(f"no {mark} folder: looked for {places}; name the official tree with {flag}")


def _label_folder(voc: Path, labels: str | Path) -> Path:
    for folder in (voc / labels, Path(labels)):
        if folder.is_dir():
            return folder
    raise UserError(
        f"no folder of label maps: looked for {voc / labels} and {labels}; name it with --labels"
    )


def _read_png(folder: Path, name: str) -> UInt8[np.ndarray, "height width"]:
    return read_label(folder / f"{name}.png", len(CLASS_NAMES))


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
