"""Helpers for other tools, with these tools' own libraries: tests/tools.sh installs them."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from apanet_jax.inference import segmenter
from apanet_jax.inference.files.formats.instances import AnnotatedImage, instances
from apanet_jax.inference.files.formats.labelme import labelme_file
from apanet_jax.inference.files.formats.yolo import yolo_data, yolo_labels
from apanet_jax.inference.napari_stack import found_labels
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.errors import MissingTool, UserError
from tests.inference.test_formats import annotated, blobs, far
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, ColourMatcher, scene
from tests.installed_tools import library


@pytest.fixture
def fitted():
    supports = [scene(RED, LEFT), scene(GREEN, LEFT)]
    images, masks = zip(*supports, strict=True)
    return Segmenter(ColourMatcher()).fit(images, masks, ["beetle", "leaf"])


def truth(fitted, image):
    return next(fitted.answers([image])).labels()


def test_cvat_gets_masks_that_its_sdk_decodes(fitted, tmp_path, monkeypatch):
    library("cvat_sdk.auto_annotation", "cvat-cli")
    from cvat_sdk.masks import decode_mask

    from apanet_jax.inference import cvat_detection

    monkeypatch.setattr(segmenter, "load", lambda *_, **__: Segmenter(ColourMatcher()))
    for name, colour in (("beetle", RED), ("leaf", GREEN)):
        (tmp_path / name).mkdir()
        for ending, values in zip(("", "_mask"), scene(colour, LEFT), strict=True):
            Image.fromarray(values).save(tmp_path / name / f"a{ending}.png")
    function = cvat_detection.create(str(tmp_path))
    assert [label.name for label in function.spec.labels] == ["beetle", "leaf"]
    image = scene(GREEN, RIGHT)[0]
    height, width = image.shape[:2]
    context = SimpleNamespace(conf_threshold=None, conv_mask_to_poly=False)
    (shape,) = function.detect(context, Image.fromarray(image))
    assert (shape.label_id, shape.type.value) == (1, "mask")
    decoded = decode_mask(shape.points, image_width=width, image_height=height)
    np.testing.assert_array_equal(decoded, truth(fitted, image) == 2)
    context.conv_mask_to_poly = True
    (shape,) = function.detect(context, Image.fromarray(image))
    assert shape.type.value == "polygon" and len(shape.points) >= 6
    context.conf_threshold = 1.0
    assert not function.detect(context, Image.fromarray(image))
    monkeypatch.setattr(segmenter, "load", lambda *_, **__: fitted)
    again = cvat_detection.create(fitted="beetles.apanet", smallest=5)
    assert [label.name for label in again.spec.labels] == ["beetle", "leaf"]
    assert fitted.options.smallest == 5
    for wrong in ({}, {"supports": "a", "fitted": "b"}, {"fitted": "b", "size": 99}):
        with pytest.raises(UserError, match="expected -p supports"):
            cvat_detection.create(**wrong)


def test_supervision_gets_boxes_masks_and_scores(fitted):
    supervision = library("supervision", "supervision")
    from apanet_jax.inference.supervision_detections import detections

    image = scene(GREEN, RIGHT)[0]
    found = detections(next(fitted.answers([image])))
    expected = truth(fitted, image) == 2
    np.testing.assert_array_equal(found.mask[0], expected)
    assert found.class_id.tolist() == [1] and 0 < found.confidence[0] <= 1
    boxes = supervision.mask_to_xyxy(found.mask)
    # Its own boxes end with the last column and row.
    np.testing.assert_array_equal(found.xyxy, boxes + (0, 0, 1, 1))
    np.testing.assert_array_equal(found.area, [expected.sum()])
    drawn = supervision.MaskAnnotator(opacity=1).annotate(np.zeros_like(image), found)
    np.testing.assert_array_equal(drawn.any(-1), expected)
    blue = np.zeros_like(image)
    blue[..., 2] = 200
    assert len(detections(next(fitted.answers([blue])))) == 0


BRUSH = """<View><Image name="photo" value="$picture"/><BrushLabels name="brush" toName="photo">
<Label value="beetle"/><Label value="leaf"/></BrushLabels></View>"""


def test_label_studio_learns_what_is_saved_and_marks_what_is_opened(tmp_path, monkeypatch, capsys):
    api = library("label_studio_ml.api", "label-studio-ml")
    brush = library("label_studio_sdk.converter.brush", "label-studio-ml")
    from apanet_jax.inference import label_studio_backend as backend
    from apanet_jax.inference import label_studio_server

    load = segmenter.load
    monkeypatch.setattr(segmenter, "load", lambda *_, **__: Segmenter(ColourMatcher()))
    monkeypatch.setenv(backend.SUPPORTS, str(tmp_path / "supports"))
    monkeypatch.setattr(backend.FewShotBackend, "get_local_path", lambda _, url, *__, **___: url)
    files = []
    for number, (colour, where) in enumerate(((RED, LEFT), (GREEN, LEFT), (GREEN, RIGHT))):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(scene(colour, where)[0]).save(files[-1])

    def saved(number, label):
        region = {"type": "brushlabels", "original_width": 120, "original_height": 80}
        runs = brush.mask2rle(scene(RED, LEFT)[1].astype(np.uint8) * 255)
        region["value"] = {"format": "rle", "rle": runs, "brushlabels": [label]}
        task = {"id": number, "data": {"picture": str(files[number])}}
        return {"task": task, "annotation": {"id": number, "result": [region]}}

    client = api.init_app(backend.FewShotBackend, model_dir=str(tmp_path)).test_client()
    asked = {"project": "1.5", "schema": BRUSH, "label_config": BRUSH}
    assert client.post("/setup", json=asked).status_code == 200
    tasks = {"tasks": [{"id": 9, "data": {"picture": str(files[2])}}], **asked}
    assert client.post("/predict", json=tasks).json["results"] == [{"result": [], "score": 0.0}]
    model = backend.FewShotBackend(label_config=BRUSH)
    for number, label in enumerate(("beetle", "leaf")):
        # What the process that label-studio-ml starts for a webhook calls.
        model.process_event("ANNOTATION_CREATED", saved(number, label), "job", {})
    (answer,) = client.post("/predict", json=tasks).json["results"]
    (region,) = answer["result"]
    assert (region["from_name"], region["to_name"]) == ("brush", "photo")
    assert region["value"]["brushlabels"] == ["leaf"] and 0 < region["score"] <= 1
    decoded = brush.decode_rle(region["value"]["rle"]).reshape(80, 120, 4)[..., 3] > 0
    images = [Image.open(file) for file in files]
    expected = Segmenter(ColourMatcher()).fit(
        images[:2], [scene(RED, LEFT)[1]] * 2, ["beetle", "leaf"]
    )
    np.testing.assert_array_equal(decoded, expected.predict(images[2:])[0] == 2)
    # As label-studio-ml 2 calls it; and what is kept is an export that is read as masks.
    assert model.fit("ANNOTATION_DELETED", saved(0, "beetle")) == {"supports": 1}
    (kept,) = (tmp_path / "supports").glob("*.json")
    assert json.loads(kept.read_text())[0]["id"] == 1
    # Without a head there is no server.
    monkeypatch.setattr(segmenter, "load", load)
    monkeypatch.setenv(backend.WORKDIR, str(tmp_path / "nothere"))
    with pytest.raises(SystemExit) as ended:
        label_studio_server.main([])
    assert ended.value.code == 2 and "nothere: expected a run's workdir" in capsys.readouterr().err
    monkeypatch.delenv(backend.SUPPORTS)
    with pytest.raises(UserError, match="APANET_JAX_SUPPORTS is not set"):
        model.predict([])


def stack():
    """Returns frames in two colours, labels drawn on the first two, and where the others' are."""
    frames, masks = zip(
        scene(RED, LEFT), scene(GREEN, LEFT), scene(RED, RIGHT), scene(GREEN, RIGHT), strict=True
    )
    drawn = np.zeros((4, 80, 120), np.int32)
    drawn[0][masks[0]], drawn[1][masks[1]] = 7, 3
    return np.stack(frames), drawn


def test_what_is_drawn_on_frames_is_found_in_the_others(fitted):
    images, drawn = stack()
    found = found_labels(Segmenter(ColourMatcher()), images, drawn)
    np.testing.assert_array_equal(found[:2], drawn[:2])
    expected = Segmenter(ColourMatcher()).fit(images[:2], drawn[:2] > 0, ["7", "3"])
    for frame, labels in zip(found[2:], expected.predict(images[2:]), strict=True):
        np.testing.assert_array_equal(frame, np.array([0, 7, 3])[labels])
    assert set(np.unique(found[2:])) == {0, 3, 7}
    deep = found_labels(Segmenter(ColourMatcher()), images[..., 0] * 256.0, drawn)
    assert deep.shape == drawn.shape
    for wrong, says in (
        ((images, drawn[:3]), "to be the same"),
        ((images, drawn * 0), "nothing is drawn yet"),
        ((images[0], drawn[0]), "on every frame"),
    ):
        with pytest.raises(UserError, match=says):
            found_labels(Segmenter(ColourMatcher()), *wrong)


def test_napari_finds_what_is_drawn_and_takes_what_is_corrected(monkeypatch):
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    napari, npe2 = library("napari", "napari"), library("npe2", "napari")
    library("qtpy.QtWidgets", "napari").QApplication([])
    from apanet_jax.inference import napari_widget

    place = Path(segmenter.__file__).parents[1] / "napari.yaml"
    manifest = npe2.PluginManifest.from_file(place)
    manifest.validate_imports()
    assert [x.command for x in manifest.contributions.widgets] == ["apanet_jax.find"]
    monkeypatch.setattr(segmenter, "load", lambda *_, **__: Segmenter(ColourMatcher()))
    viewer = napari.components.ViewerModel()
    widget = napari_widget.FindWidget(viewer)
    widget[2].changed(True)
    assert "expected a layer of images" in widget[4].value
    images, drawn = stack()
    layers = viewer.add_image(images, rgb=True), viewer.add_labels(drawn, name="drawn")
    for choice, layer in zip(widget[:2], layers, strict=True):
        choice.choices = [layer]
        choice.value = layer
    widget[3].changed(True)
    assert widget[4].value == "nothing was found yet"
    widget[2].changed(True)
    expected = found_labels(Segmenter(ColourMatcher()), images, drawn)
    np.testing.assert_array_equal(viewer.layers["found"].data, expected)
    viewer.layers["found"].data[2, :10, :10] = 3
    viewer.dims.set_current_step(0, 2)
    widget[3].changed(True)
    assert "learned from" in widget[4].value
    np.testing.assert_array_equal(layers[1].data[2], viewer.layers["found"].data[2])
    np.testing.assert_array_equal(layers[1].data[3], 0)
    widget[2].changed(True)
    np.testing.assert_array_equal(viewer.layers["found"].data[2], layers[1].data[2])


def ring(size=(80, 120)):
    labels = np.zeros(size, np.uint8)
    labels[10:60, 20:90] = 1
    labels[25:45, 40:70] = 0
    labels[64:76, 5:40] = 2
    return labels


def test_ultralytics_reads_yolo_labels_as_the_same_masks(tmp_path):
    data = library("ultralytics.data", "ultralytics")
    loaded = library("ultralytics.data.utils", "ultralytics")
    labels = ring()
    found = instances(labels, [1, 1], lambda _: np.full(labels.shape, 255, np.uint8))
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.dstack([labels * 100] * 3)).save(tmp_path / "images" / "a.png")
    text = yolo_labels(AnnotatedImage("a.png", labels.shape, found))
    (tmp_path / "labels" / "a.txt").write_text(text)
    (tmp_path / "data.yaml").write_text(yolo_data(["beetle", "leaf"]))
    known = loaded.check_det_dataset(str(tmp_path / "data.yaml"), autodownload=False)
    assert known["names"] == {0: "beetle", 1: "leaf"}
    read = data.YOLODataset(
        img_path=str(tmp_path / "images"), data=known, task="segment", augment=False, imgsz=120
    )
    entry = read.labels[0]
    assert entry["cls"].ravel().tolist() == [0, 1] and len(entry["segments"]) == 2
    scale = np.array(labels.shape[::-1])
    for number, segment in enumerate(entry["segments"]):
        outline = (segment * scale).reshape(1, -1)
        drawn = loaded.polygon2mask(labels.shape, outline, color=1).astype(bool)
        wanted = labels == number + 1
        # It takes whole numbers for centres of pixels, and adds one at the right and the bottom.
        assert drawn[wanted].all() and (drawn & ~wanted).sum() < 0.12 * wanted.sum()


def test_labelme_opens_what_is_written_as_the_same_masks(tmp_path):
    opened = library("labelme._label_file", "labelme")
    utils = library("labelme.utils", "labelme")
    labels = blobs()
    image = annotated(labels)
    Image.fromarray(np.dstack([labels * 100] * 3)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps(labelme_file(image, ["beetle", "leaf"])))
    read = opened.read_label_file(str(tmp_path / "a.json"))
    assert read.image_data == (tmp_path / "a.png").read_bytes()
    kinds = set()
    for shape, found in zip(read.shapes, image.instances, strict=True):
        assert shape["label"] == ["beetle", "leaf"][found.class_index]
        wanted = found.full_mask(labels.shape)
        kinds.add(shape["shape_type"])
        if shape["shape_type"] == "mask":
            (left, top), (right, bottom) = np.array(shape["points"]).astype(int)
            np.testing.assert_array_equal(shape["mask"], wanted[top : bottom + 1, left : right + 1])
        else:
            # It adds a pixel at the right and the bottom, as ultralytics does.
            drawn = utils.shape_to_mask(labels.shape, shape["points"], shape["shape_type"])
            assert not far(drawn, wanted, added=2)
    assert kinds == {"polygon", "mask"}


@pytest.mark.parametrize(
    "module", ["cvat_detection", "supervision_detections", "label_studio_backend", "napari_widget"]
)
def test_a_tool_that_is_missing_is_one_line(module, monkeypatch):
    tools = ("cvat_sdk", "supervision", "label_studio_ml", "napari")
    for name in [*tools, *(x for x in sys.modules if x.split(".")[0] in tools)]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"apanet_jax.inference.{module}", raising=False)
    with pytest.raises(MissingTool, match="is not installed .*: pip install ") as told:
        importlib.import_module(f"apanet_jax.inference.{module}")
    assert "\n" not in str(told.value)
