"""COCO-20i's images with ready label maps: the PNG folders that PFENet's and HSNet's users have.

    IMAGES/train2014/COCO_train2014_000000000009.jpg
    LABELS/train2014/COCO_train2014_000000000009.png

and the same for `val2014`; HSNet's tree has the label maps in `COCO2014/annotations`. Ids are 1 to
80 in the order of COCO's categories. HSNet's own lists are pickles, which are not read: the folders
or PFENet's lists say which images there are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from apanet_jax.data.images.image_files import is_left_behind
from apanet_jax.data.sources.coco import EXPECTED, FOLD_SPLITS, check_choice, coco_folds
from apanet_jax.data.sources.lists import count_note, read_image_lists
from apanet_jax.data.sources.source import (
    SPLITS,
    Sample,
    Split,
    labelled_sample,
    read_label,
    read_source_image,
)
from apanet_jax.runtime.errors import UserError

CLASS_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote"),
    *("keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book"),
    *("clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)


class CocoLabelMapSource:
    """The images of train2014 and val2014 that have a label map, in the order of their names."""

    name = "coco"
    class_names = CLASS_NAMES

    def __init__(
        self,
        images: Path,
        labels: Path,
        *,
        split: Literal["interleaved", "consecutive"] = "interleaved",
        train_list: Sequence[Path] = (),
        val_list: Sequence[Path] = (),
        any_count: bool = False,
    ):
        """Finds the folders and makes the lists.

        Args:
          images: holds `train2014` and `val2014`.
          labels: holds folders of these names with label maps.
          split: of the classes 1..80: "interleaved", fold i tests i+1, i+5, i+9, …, or
            "consecutive", fold i tests 20i+1 to 20i+20.
          train_list: list files to train on (`sources.lists`); by default all label maps there are.
          val_list: list files to test on; likewise.
          any_count: whether lists of other lengths than the protocol's are accepted; those that are
            given always are, with a note.

        Raises:
          UserError: a folder is missing, or a list has another length.
        """
        check_choice("split", split, FOLD_SPLITS)
        self._images, self._labels = Path(images), Path(labels)
        for root, flag in ((self._images, "--images"), (self._labels, "--labels")):
            for part in SPLITS:
                if not (root / f"{part}2014").is_dir():
                    raise UserError(
                        f"{root / f'{part}2014'} is missing: name the folder that holds it with "
                        f"{flag}"
                    )
        self.folds = coco_folds(CLASS_NAMES, split)
        self.origin = f"{self._images.resolve()} {self._labels.resolve()}"
        self._names: dict[Split, list[str]] = {}
        self.notes: list[str] = []
        for part, given in (("train", list(train_list)), ("val", list(val_list))):
            self._names[part] = read_image_lists(given) if given else self._all(part)
            self.notes += count_note(
                part,
                len(self._names[part]),
                EXPECTED[part],
                given=bool(given),
                any_count=any_count,
                hint=f"give --{part}_list=FILE (such as PFENet's lists/coco/{part}.txt)",
            )

    def names(self, split: Split) -> list[str]:
        """Returns the names of a split's images: `COCO_train2014_000000000009`, …"""
        return list(self._names[split])

    def read(self, split: Split, name: str) -> Sample:
        """Returns an image with its label map."""
        label = read_label(self._labels / f"{split}2014" / f"{name}.png", len(CLASS_NAMES))
        path = self._images / f"{split}2014" / f"{name}.jpg"
        return labelled_sample(name, *read_source_image(path), label)

    def _all(self, part: Split) -> list[str]:
        files = (self._labels / f"{part}2014").iterdir()
        return sorted(f.stem for f in files if f.suffix == ".png" and not is_left_behind(f.name))
