"""Small data sets in the official layouts, made on the spot."""

import json
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

PALETTE = [c for i in range(256) for c in ((i * 37) % 256, (i * 91) % 256, (i * 53) % 256)]


def picture_and_label(rng, height, width, ids):
    """A noisy picture with a coloured rectangle for each of two ids, and a border of 255."""
    image = rng.integers(0, 120, (height, width, 3)).astype(np.uint8)
    label = np.zeros((height, width), np.uint8)
    for half, class_id in enumerate(rng.permutation(ids)[:2]):
        top, left = rng.integers(2, height // 3), width // 2 * half + rng.integers(2, width // 8)
        window = np.s_[top : top + height // 2, left : left + width // 3]
        label[window] = class_id
        image[window] = np.array(
            [class_id * 11 % 256, 255 - class_id * 9 % 256, class_id * 67 % 256]
        )
        label[top, left : left + width // 3] = 255
    return image, label


def save_label(path: Path, label, palette=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(label)
    if palette:
        image = image.convert("P")
        image.putdata(label.ravel().tolist())
        image.putpalette(PALETTE)
    image.save(path)


def save_image(path: Path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)


def write_list(path: Path, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def folder_tree(root: Path, *, train=16, val=12, classes=4, size=(64, 80), seed=0) -> Path:
    """A data set in the folder layout with two folds."""
    rng = np.random.default_rng(seed)
    names = [f"class{i}" for i in range(1, classes + 1)]
    for split, count in (("train", train), ("val", val)):
        split_names = [f"{split}_{i:03d}" for i in range(count)]
        write_list(root / "ImageSets" / "Segmentation" / f"{split}.txt", split_names)
        for i, name in enumerate(split_names):
            image, label = picture_and_label(rng, *size, np.arange(1, classes + 1))
            save_image(root / "JPEGImages" / f"{name}.jpg", image)
            save_label(root / "SegmentationClass" / f"{name}.png", label, palette=i % 2 == 0)
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    (root / "folds.json").write_text(json.dumps([names[: classes // 2], names[classes // 2 :]]))
    return root


def pascal_tree(root: Path, *, own=20, sbd=24, both=4, val=40, size=(96, 128), seed=0):
    """Official VOC 2012 and SBD trees; returns their roots and the names of each list."""
    rng = np.random.default_rng(seed)
    voc, release = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE"
    own_names = [f"2007_{i:06d}" for i in range(own)]
    sbd_names = own_names[:both] + [f"2008_{i:06d}" for i in range(sbd - both)]
    val_names = [f"2009_{i:06d}" for i in range(val)]
    ids = np.arange(1, 21)
    for number, name in enumerate(dict.fromkeys(own_names + sbd_names + val_names)):
        # Every class comes up in turn, so that small trees have supports for all.
        image, label = picture_and_label(rng, *size, np.roll(ids, -2 * number)[:2])
        save_image(voc / "JPEGImages" / f"{name}.jpg", image)
        if name in own_names or name in val_names:
            save_label(voc / "SegmentationClass" / f"{name}.png", label)
        if name in sbd_names:
            save_image(release / "dataset" / "img" / f"{name}.jpg", image)
            shifted = np.roll(label, 3, 1) if name in own_names else label
            mat = {"GTcls": {"Segmentation": shifted, "CategoriesPresent": np.unique(shifted)}}
            path = release / "dataset" / "cls" / f"{name}.mat"
            path.parent.mkdir(parents=True, exist_ok=True)
            scipy.io.savemat(path, mat)
    sets = voc / "ImageSets" / "Segmentation"
    write_list(sets / "train.txt", own_names)
    write_list(sets / "val.txt", val_names)
    write_list(release / "dataset" / "train_noval.txt", sbd_names)
    write_list(release / "dataset" / "train.txt", [*sbd_names, *val_names[:3]])
    return voc, release, {"own": own_names, "sbd": sbd_names, "val": val_names}


COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
"""COCO's own category ids: 80, with gaps."""


def run_lengths(mask) -> list[int]:
    """The lengths of runs of 0 and 1, by columns, beginning with 0."""
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    return lengths if flat[0] == 0 else [0, *lengths]


def coco_tree(root: Path, *, train=20, val=12, empty=2, size=(96, 128), seed=0, classes=80):
    """An official COCO 2014 tree; returns its pictures' and annotations' folders.

    Every picture has two rectangles, of the classes that come up in turn among the first
    `classes`: one as a polygon, one as run lengths. The last `empty` ones of each split have none.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    (root / "annotations").mkdir(parents=True)
    categories = [
        {"id": category, "name": f"thing {category}", "supercategory": "things"}
        for category in COCO_IDS
    ]
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        for number in range(count + empty):
            image_id = 7 * (count + empty - number)  # not in the order of their ids
            file_name = f"COCO_{split}2014_{image_id:012d}.jpg"
            image = rng.integers(0, 120, (height, width, 3)).astype(np.uint8)
            for half in range(2 if number < count else 0):
                class_id = (2 * number + half) % classes + 1
                top = int(rng.integers(2, height // 3))
                left = int(width // 2 * half + rng.integers(2, width // 8))
                bottom, right = top + height // 2, left + width // 3
                image[top:bottom, left:right] = (
                    class_id * 11 % 256,
                    255 - class_id * 9 % 256,
                    class_id * 67 % 256,
                )
                outline = [[left, top, right, top, right, bottom, left, bottom]]
                if half:
                    mask = np.zeros(size, bool)
                    mask[top:bottom, left:right] = True
                    outline = {"counts": run_lengths(mask), "size": [height, width]}
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": COCO_IDS[class_id - 1],
                        "iscrowd": 0,
                        "area": (bottom - top) * (right - left),
                        "bbox": [left, top, right - left, bottom - top],
                        "segmentation": outline,
                    }
                )
            images.append(
                {"id": image_id, "file_name": file_name, "height": height, "width": width}
            )
            save_image(root / f"{split}2014" / file_name, image)
        content = {"images": images, "annotations": annotations, "categories": categories[::-1]}
        write_annotations(root / "annotations", split, content)
    return root, root / "annotations"


def read_annotations(folder: Path, split: str) -> dict:
    return json.loads((folder / f"instances_{split}2014.json").read_text())


def write_annotations(folder: Path, split: str, content: dict):
    (folder / f"instances_{split}2014.json").write_text(json.dumps(content))
