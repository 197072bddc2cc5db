"""The drawn images: the same again, well labelled, varied and balanced."""

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from apanet_jax.data.sources.drawing.brush import Part, flat, paint
from apanet_jax.data.sources.drawing.objects import OBJECTS
from apanet_jax.data.sources.drawing.outlines import box, ellipse, stroke
from apanet_jax.data.sources.drawing.textures import ATLAS_SIZE, atlas, textured
from apanet_jax.data.sources.synthetic import SyntheticSource
from apanet_jax.runtime.errors import UserError

PICTURES = 240
MIN_AREA = 2048


def decoded(sample):
    return np.array(Image.open(io.BytesIO(sample.image)))


@pytest.fixture(scope="module")
def source():
    return SyntheticSource(seed=3, train=PICTURES, val=20, size=240)


@pytest.fixture(scope="module")
def samples(source):
    return [source.read("train", name) for name in source.names("train")]


@pytest.fixture(scope="module")
def areas(samples):
    """Pixels of each class in each image, [images, 1 + classes]."""
    return np.stack([np.bincount(s.label.ravel(), minlength=256)[:21] for s in samples])


def test_same_pictures_from_a_second_source_in_another_order(source, samples):
    again = SyntheticSource(seed=3, train=PICTURES, val=20, size=240)
    for i in (57, 3, 0):
        other = again.read("train", samples[i].name)
        assert other.image == samples[i].image
        np.testing.assert_array_equal(other.label, samples[i].label)


def test_same_pictures_in_another_process(samples):
    program = (
        "import sys\n"
        "from apanet_jax.data.sources.synthetic import SyntheticSource\n"
        "source = SyntheticSource(seed=3, train=6, val=0, size=240)\n"
        "sys.stdout.buffer.write(source.read('train', 'train_000005').image)\n"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert made.stdout == samples[5].image


def test_a_longer_source_begins_with_the_pictures_of_a_shorter_one(samples):
    longer = SyntheticSource(seed=3, train=10 * PICTURES, val=0, size=240)
    assert longer.names("train")[:PICTURES] == [s.name for s in samples]
    for i in (0, 19, 20, 101):
        assert longer.read("train", samples[i].name).image == samples[i].image


def test_seed_split_and_index_each_change_the_picture(source, samples):
    other = SyntheticSource(seed=4, train=2, val=2, size=240)
    images = {s.image for s in samples}
    assert len(images) == PICTURES
    assert other.read("train", "train_000000").image not in images
    assert source.read("val", "val_000000").image not in images


@pytest.mark.parametrize("size", [64, 100, 333])
def test_size(size):
    sample = SyntheticSource(train=1, val=1, size=size).read("train", "train_000000")
    assert decoded(sample).shape == (size, size, 3)
    assert sample.label.shape == (size, size)
    assert sample.label.dtype == np.uint8


def test_names(source):
    assert source.names("val")[:2] == ["val_000000", "val_000001"]
    assert len(source.names("val")) == 20
    assert source.read("val", "val_000019").name == "val_000019"


def test_folds_divide_the_classes():
    folds = SyntheticSource.folds
    assert [len(fold) for fold in folds] == [5, 5, 5, 5]
    assert sorted(sum(folds, ())) == sorted(SyntheticSource.class_names)
    assert len(set(SyntheticSource.class_names)) == 20


def test_labels_are_classes_background_or_border(samples):
    for sample in samples:
        assert set(np.unique(sample.label)) <= {*range(21), 255}
        assert (sample.label == 0).any()
        assert ((sample.label > 0) & (sample.label < 255)).any()


def test_objects_of_different_classes_are_parted_by_a_thin_border(samples):
    shares = []
    for sample in samples:
        label = sample.label.astype(int)
        for a, b in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            assert not ((a != b) & (a != 255) & (b != 255)).any()
        # No pixel of the border is further than a pixel from something that is not border.
        inside = cv2.erode((sample.label == 255).astype(np.uint8), np.ones((3, 3), np.uint8))
        shares.append((inside > 0).mean())
    assert np.mean(shares) < 0.01
    border = np.mean([(s.label == 255).mean() for s in samples])
    assert 0.01 < border < 0.08


def test_border_lies_on_an_edge_of_the_picture(samples):
    """Labels and image belong together: colours change more across the borders."""
    on, off = [], []
    for sample in samples[:60]:
        grey = cv2.cvtColor(decoded(sample), cv2.COLOR_RGB2GRAY).astype(np.float32)
        change = np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1))
        on.append(change[sample.label == 255].mean())
        off.append(change[sample.label == 0].mean())
    assert np.mean(on) > 2 * np.mean(off)


def test_every_class_is_as_frequent_and_often_large_enough(areas):
    present = (areas[:, 1:] > 0).sum(0)
    large = (areas[:, 1:] >= MIN_AREA).sum(0)
    expected = PICTURES * 2 / 20
    assert present.min() > 0.55 * expected
    assert present.max() < 1.6 * expected
    assert large.min() >= PICTURES / 20 * 0.75
    shares = areas[:, 1:][areas[:, 1:] > 0] / 240**2
    assert 0.08 < np.median(shares) < 0.2


def test_one_to_four_classes_a_picture(areas):
    counts = (areas[:, 1:] > 0).sum(1)
    assert set(counts) == {1, 2, 3, 4}


@pytest.mark.parametrize("fold", range(4))
def test_novel_objects_hide_in_training_pictures(areas, fold):
    """The share that Fig. 3 of the paper counts."""
    novel = np.isin(np.arange(20), np.arange(5 * fold, 5 * fold + 5))
    listed = (areas[:, 1:][:, ~novel] >= MIN_AREA).any(1)
    hidden = (areas[listed, 1:][:, novel] > 0).any(1).mean()
    assert 0.1 < hidden < 0.6


def test_colour_does_not_tell_the_class(samples, areas):
    """Mean hues spread about as far inside a class as over all classes."""
    chroma = {c: [] for c in range(1, 21)}
    for sample, area in zip(samples, areas, strict=True):
        lab = cv2.cvtColor(decoded(sample), cv2.COLOR_RGB2LAB).astype(float)
        for c in np.flatnonzero(area[1:] >= MIN_AREA) + 1:
            chroma[c].append(lab[sample.label == c].mean(0)[1:])
    together = np.concatenate([np.array(v) for v in chroma.values()])
    within = np.mean([np.var(v, axis=0).sum() for v in chroma.values()])
    assert within > 0.6 * together.var(axis=0).sum()


@pytest.mark.parametrize("name", OBJECTS)
def test_things_of_a_class_vary_in_shape(name):
    """Objects laid over one another, each filling the same square, do not coincide."""
    masks = []
    for i in range(8):
        parts = OBJECTS[name].draw(np.random.default_rng(i))
        points = np.concatenate([part.points for part in parts])
        low, high = points.min(0), points.max(0)
        assert np.isfinite(points).all()
        scale = 60 / (high - low)
        to_pixels = np.column_stack([np.diag(scale), 2 - low * scale])
        image = np.zeros((3, 64, 64), np.float32)
        masks.append(paint(image, parts, to_pixels, light=(0.0, -1.0)) > 127)
        assert 0.08 < masks[-1].mean() < 0.95
    overlaps = [(a & b).sum() / (a | b).sum() for i, a in enumerate(masks) for b in masks[i + 1 :]]
    assert np.mean(overlaps) < 0.97
    # Filled into one square, round makes of a clock or a wheel coincide.
    assert len({mask.tobytes() for mask in masks}) >= 4


def test_paint_covers_the_polygon_with_its_colour():
    image = np.full((3, 40, 50), 200, np.float32)
    part = Part(box(-1, -1, 1, 1), flat(np.array([10, 60, 110]), relief=0.0))
    to_pixels = np.array([(10.0, 0, 24.5), (0, 5.0, 19.5)])
    covered = paint(image, [part], to_pixels, light=(1.0, 0.0))
    np.testing.assert_allclose(image[:, 19, 24], [10, 60, 110], atol=1)
    np.testing.assert_allclose(image[:, 5, 5], 200)
    # OpenCV's smoothed edges reach up to a pixel outwards.
    assert 20 * 10 <= covered.sum() / 255 <= 22 * 12
    weight = covered / 255.0
    colour = np.array([10, 60, 110])[:, None, None]
    np.testing.assert_allclose(image, 200 + (colour - 200) * weight, atol=0.01)


def test_paint_is_cut_at_the_edge_of_the_picture():
    whole = np.zeros((3, 60, 60), np.float32)
    parts = [Part(ellipse(0, 0, 1), flat(np.array([90, 90, 90]), relief=0.0))]
    paint(whole, parts, np.array([(20.0, 0, 30), (0, 20.0, 30)]), light=(0.0, -1.0))
    corner = np.zeros((3, 30, 30), np.float32)
    paint(corner, parts, np.array([(20.0, 0, 0), (0, 20.0, 0)]), light=(0.0, -1.0))
    # But for the border itself, along which OpenCV smooths less.
    np.testing.assert_allclose(corner[:, 1:, 1:], whole[:, 31:, 31:], atol=1)
    away = np.zeros((3, 30, 30), np.float32)
    covered = paint(away, parts, np.array([(5.0, 0, 90), (0, 5.0, 90)]), light=(0.0, -1.0))
    assert not covered.any() and not away.any()


def test_relief_is_lit_from_the_side_of_the_light():
    image = np.full((3, 60, 60), 50, np.float32)
    parts = [Part(ellipse(0, 0, 1), flat(np.array([120, 120, 120]), relief=0.8))]
    paint(image, parts, np.array([(25.0, 0, 30), (0, 25.0, 30)]), light=(-1.0, 0.0))
    assert image[0, 30, 10] > 120 > image[0, 30, 50]


def test_stroke_has_its_width():
    outline = stroke([(0, 0), (3, 4), (6, 8)], 0.5)
    assert cv2.contourArea(outline.astype(np.float32)) == pytest.approx(10 * 0.5)
    tapered = stroke([(0, 0), (1, 0), (2, 0)], (1.0, 0.0))
    assert cv2.contourArea(tapered.astype(np.float32)) == pytest.approx(2 * 0.5)


def test_textures_repeat_and_are_sampled_as_the_map_says():
    for name, texture in atlas().items():
        tile = texture[:ATLAS_SIZE, :ATLAS_SIZE]
        np.testing.assert_array_equal(texture[ATLAS_SIZE : 2 * ATLAS_SIZE, -ATLAS_SIZE:], tile)
        assert tile.max() > tile.min(), name
        # From pixel (x, y) to (y + 5000, -300 - x), beyond the stored copies.
        turned = np.array([(0.0, 1.0, 5000.0), (-1.0, 0.0, -300.0)])
        y, x = np.mgrid[:20, :30]
        expected = tile[(-300 - x) % ATLAS_SIZE, (y + 5000) % ATLAS_SIZE] / 255
        np.testing.assert_allclose(textured(name, turned, 30, 20), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"seed": -1}, "seed"),
        ({"train": -3}, "train"),
        ({"size": 8}, "size"),
        ({"val": 1.5}, "val"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, word):
    with pytest.raises(UserError, match=word) as caught:
        SyntheticSource(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train_000240", "val_000000", "train_0", "train_", "x", ""])
def test_unknown_pictures_are_refused(source, name):
    with pytest.raises(UserError, match="no image"):
        source.read("train", name)
    with pytest.raises(UserError, match="split"):
        source.names("test")
