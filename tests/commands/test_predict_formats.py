"""The forms in which `predict` reads queries and writes masks."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from pycocotools.coco import COCO

from apanet_jax.data.annotations.masks import read_mask
from apanet_jax.data.images.reader import read_image
from tests.commands.predicting import ALL_FORMATS, given, run, video
from tests.inference.test_segmenter import LEFT, RED, RIGHT, scene


def test_every_format_says_what_the_masks_do(folder):
    out = folder / "out"
    classes = ["--class", "beetle", *given(folder), "--class", "leaf", *given(folder, "green")]
    assert run(*classes, "--output", out, folder / "new", ALL_FORMATS) == 0
    labels = {n: np.array(Image.open(out / f"{n}_labels.png")) for n in ("with", "without")}
    coco = COCO(out / "coco.json")
    for image in coco.loadImgs(coco.getImgIds()):
        decoded = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            decoded[coco.annToMask(annotation) > 0] = annotation["category_id"]
        np.testing.assert_array_equal(decoded, labels[Path(image["file_name"]).stem])
    for name, label in labels.items():
        content = json.loads((out / "labelme" / f"{name}.json").read_text())
        picture = (out / "labelme" / content["imagePath"]).resolve()
        assert picture == (folder / "new" / f"{name}.png").resolve()
        shown = read_image(folder / "new" / f"{name}.png")
        of_yolo = out / "yolo" / "labels" / f"{name}.txt"
        class_name = "beetle" if name == "with" else "leaf"
        for path in (out / "labelme" / f"{name}.json", of_yolo):
            read = read_mask(path, shown, class_name)
            assert ((read == 1) != (label > 0)).sum() <= 0.02 * (label > 0).sum()
        copied = out / "yolo" / "images" / f"{name}.png"
        assert copied.read_bytes() == (folder / "new" / f"{name}.png").read_bytes()
    rows = list(csv.DictReader((out / "instances.csv").open()))
    assert [(row["image"], row["class"]) for row in rows] == [
        ("with.png", "beetle"),
        ("without.png", "leaf"),
    ]
    assert sum(int(row["area"]) for row in rows) == sum((x > 0).sum() for x in labels.values())


def test_frames_of_videos_and_pages_of_tiff_files(folder, capsys):
    """The object is on the left in every other frame, on the right in the others."""
    frames = [scene(RED, LEFT if number % 2 else RIGHT) for number in range(6)]
    video(folder / "clip.avi", [image for image, _ in frames])
    pages = [Image.fromarray(image) for image, _ in frames]
    pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:])
    out = folder / "out"
    queries = [folder / "clip.avi", folder / "stack.tif"]
    code = run("--support", *given(folder), "--output", out, *queries, "--every=3", ALL_FORMATS)
    assert code == 0
    rows = json.loads((out / "results.json").read_text())["queries"]
    assert sorted((Path(row["query"]).name, row["frame"]) for row in rows) == [
        *(("clip.avi", 0), ("clip.avi", 3), ("stack.tif", 0), ("stack.tif", 3)),
    ]
    for row in rows:
        name = row["classes"][0]["mask"].removesuffix("_mask.png")
        mask = np.array(Image.open(out / f"{name}_mask.png")) > 0
        truth = frames[row["frame"]][1]
        assert (mask & truth).sum() / (mask | truth).sum() > 0.8
        content = json.loads((out / "labelme" / f"{name}.json").read_text())
        assert (out / "labelme" / content["imagePath"]).is_file()
        assert (out / "yolo" / "images" / f"{name}.png").is_file()
    coco = json.loads((out / "coco.json").read_text())
    assert all((out / "frames" / image["file_name"]).is_file() for image in coco["images"])
    stored = np.array(Image.open(out / "frames" / "stack_frame000003.png"))
    np.testing.assert_array_equal(stored, frames[3][0])


def test_a_geotiffs_masks_lie_where_it_does(folder):
    image, _ = scene(RED, RIGHT)
    tags = {33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 4e5, 5.2e6, 0.0)}
    tags |= {34735: (1, 1, 0, 1, 3072, 0, 1, 32633), 34737: "WGS 84 / UTM zone 33N|"}
    kinds = {33550: 12, 33922: 12, 34735: 3, 34737: 2}
    info = ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag], info.tagtype[tag] = value, kinds[tag]
    Image.fromarray(image).save(folder / "field.tif", tiffinfo=info)
    out = folder / "out"
    classes = ["--class", "a", *given(folder), "--class", "b", *given(folder, "green")]
    assert run(*classes, "--output", out, folder / "field.tif", folder / "new") == 0
    for kind in ("a_mask", "a_probability", "b_mask", "labels"):
        with Image.open(out / f"field_{kind}.tif") as written:
            assert {tag: written.tag_v2[tag] for tag in tags} == tags
            assert written.size == image.shape[1::-1]
    rows = json.loads((out / "results.json").read_text())["queries"]
    assert rows[0]["classes"][0]["mask"] == "field_a_mask.tif"
    assert (out / "with_a_mask.png").exists()
