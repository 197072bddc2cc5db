"""Images with YOLO's labels, as ultralytics lays them out: `images/x/a.jpg`, `labels/x/a.txt`."""

from collections import Counter
from pathlib import Path

from apanet_jax.data.annotations.yolo_files import read_yolo, yolo_names
from apanet_jax.data.images.image_files import ENDINGS, composed, files_below
from apanet_jax.data.sources.annotated import AnnotatedSource, OutlinedImage, left_out_note
from apanet_jax.runtime.errors import UserError

_IMAGES, _LABELS = "images", "labels"


def yolo(directory: Path, *, folds: str = "4", test: str = "4") -> AnnotatedSource:
    """Finds images with labels in a folder and below it; images without are left out.

    Labels lie in `labels` where the image is in `images`, or beside the image. The classes are
    those of which there is an outline, in the order of their numbers.

    Raises:
      UserError: there are none, a label file cannot be understood, or see `AnnotatedSource`.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is no folder: name one with images and labels (--source)")
    files = list(files_below(directory))
    texts = {composed(str(file)): file for file in files if file.suffix.lower() == ".txt"}
    names = yolo_names(directory / _LABELS / "a.txt")
    images: dict[str, OutlinedImage] = {}
    present, left_out = set(), Counter[str]()
    for file in (file for file in files if file.suffix.lower() in ENDINGS):
        labels = next((texts[x] for x in _label_files(file, directory) if x in texts), None)
        if labels is None:
            left_out["images without labels"] += 1
            continue
        name = file.relative_to(directory).with_suffix("").as_posix()
        if name in images:
            raise UserError(f"{images[name].path} and {file} have the same labels: rename one")
        content = read_yolo(labels, names)
        left_out += content.left_out
        present |= {outline.label for outline in content.outlines}
        images[name] = OutlinedImage(
            file, labels, lambda labels=labels: (None, read_yolo(labels, names).outlines)
        )
    if not images:
        raise UserError(
            f"{directory} holds no image with YOLO's labels: expected images/a.jpg and labels/a.txt"
        )
    named = [names[number] for number in sorted(names)]
    classes = dict.fromkeys([*named, *sorted(present - set(named), key=int)])
    return AnnotatedSource(
        directory.resolve().name,
        str(directory.resolve()),
        images,
        [name for name in classes if name in present],
        folds=folds,
        test=test,
        notes=left_out_note(left_out),
    )


def _label_files(image: Path, directory: Path) -> list[str]:
    """Returns where the labels of an image may be: in place of the last folder `images`, beside."""
    parts, folders = image.relative_to(directory).parts[:-1], [image.parent]
    if _IMAGES in parts:
        last = len(parts) - 1 - parts[::-1].index(_IMAGES)
        folders.insert(0, directory.joinpath(*parts[:last], _LABELS, *parts[last + 1 :]))
    return [composed(str(folder / f"{image.stem}.txt")) for folder in folders]
