"""Hidden novel classes: counted by hand on a small tree, and by plain loops on random tables."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from apanet_jax.config.settings import typed
from apanet_jax.data.episode_data import training_lists
from apanet_jax.data.records.reading import open_records
from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.reports.overlays import GIVEN, PREDICTION
from apanet_jax.runs.run import make_run
from configs import folder
from experiments.paper.hidden_classes import (
    Share,
    contact_sheet,
    hidden_shares,
    images_to_show,
    table,
)
from tests import trees
from tests.scripts import ROOT, assert_refused, run_script

LISTS = ROOT.parent / "shared" / "data" / "voc_lists"

SIDE, MIN_AREA = 20, 50
NAMES = ("ant", "bee", "cat", "dog")
FOLDS = (("ant", "bee"), ("cat", "dog"))
IMAGES = (
    {"cat": 100, "ant": 60},
    {"cat": 100},
    {"dog": 60, "bee": 10},
    {"ant": 100},  # no base class of fold 0
    {"ant": 100, "cat": 10},  # too little of one
    {"cat": 80, "ant": 50, "bee": 50},
    {"dog": 50},
    {"bee": 70, "dog": 20},
)
IGNORED = {1: 20, 7: 30}
"""Pixels of 255, by image."""

LISTED = {0: [0, 1, 2, 5, 6], 1: [0, 3, 4, 5, 7]}
# Counted by hand from IMAGES, 400 pixels each.
BY_HAND = {
    0: {
        "pairs": (4, 9),
        "images": (3, 5),
        "pixels": (170, 560),
        "background": (170, 2000 - 20 - 390),
    },
    1: {
        "pairs": (4, 10),
        "images": (4, 5),
        "pixels": (210, 640),
        "background": (210, 2000 - 30 - 430),
    },
}


def label_of(contents, ignored=0):
    ids = [255] * ignored
    for name, area in contents.items():
        ids += [NAMES.index(name) + 1] * area
    return np.array(ids + [0] * (SIDE * SIDE - len(ids)), np.uint8).reshape(SIDE, SIDE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The records of IMAGES, from a tree in VOC's layout."""
    root = tmp_path_factory.mktemp("hidden")
    names = [f"p{i}" for i in range(len(IMAGES))]
    for split, chosen in (("train", names), ("val", names[-1:])):
        trees.write_list(root / "mine" / "ImageSets" / "Segmentation" / f"{split}.txt", chosen)
    for i, name in enumerate(names):
        image = np.full((SIDE, SIDE, 3), 20 * i, np.uint8)
        trees.save_image(root / "mine" / "JPEGImages" / f"{name}.jpg", image)
        label = label_of(IMAGES[i], IGNORED.get(i, 0))
        trees.save_label(root / "mine" / "SegmentationClass" / f"{name}.png", label)
    (root / "mine" / "classes.txt").write_text("\n".join(NAMES) + "\n")
    (root / "mine" / "folds.json").write_text(json.dumps(FOLDS))
    write_records(FolderSource(root / "mine"), root / "records")
    return root / "records"


def config_for(directory):
    return f"--config=folder:records={directory},min_area={MIN_AREA}"


@pytest.mark.parametrize("fold", [0, 1])
def test_every_share_is_what_a_hand_counts(prepared, fold):
    data = open_records(prepared)
    config = folder.get_config(f"records={prepared},min_area={MIN_AREA},fold={fold}")
    listed = training_lists(typed(config).data, data, fold=fold, shot=1, seed=0).queries
    assert listed.tolist() == LISTED[fold]
    novel = tuple(NAMES.index(name) + 1 for name in FOLDS[fold])
    assert hidden_shares(data.split("train").areas, listed, novel) == BY_HAND[fold]


def test_the_script_writes_what_a_hand_counts(prepared, tmp_path):
    output = tmp_path / "new" / "out"
    arguments = (f"{config_for(prepared)},folds=all", f"--output={output}", "--images=3")
    done = run_script("hidden_classes", *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads((output / "hidden_classes.json").read_text())
    for fold, found in zip((0, 1), result["folds"], strict=True):
        counted = {name: (s["part"], s["whole"]) for name, s in found["shares"].items()}
        assert counted == BY_HAND[fold] and found["novel"] == list(FOLDS[fold])
    assert found["shares"]["images"]["percent"] == 80
    text = (output / "hidden_classes.md").read_text()
    assert text.strip() in done.stdout
    assert "8 images; training list: 5 in fold 0, 5 in fold 1." in text
    for line in ("| pairs | 44.4 | 40.0 |", "| images | 60.0 | 80.0 |"):
        assert line in text.splitlines()
    for name in ("hidden_classes.png", "hidden_images.png"):
        with Image.open(output / name) as image:
            assert min(image.size) > 100


def test_a_config_without_folds_counts_its_own(prepared):
    done = run_script("hidden_classes", f"{config_for(prepared)},fold=1")
    assert done.returncode == 0, done.stderr
    assert "| % | fold 1 |" in done.stdout and "| images | 80.0 |" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("options", ["shot=5", "support_gap=18"])
def test_the_list_is_the_one_that_training_reads(tmp_path, options):
    tree = trees.folder_tree(tmp_path / "mine", train=40, val=40)
    write_records(FolderSource(tree), tmp_path / "records")
    config = folder.get_config(
        f"records={tmp_path / 'records'},min_area=400,fold=1,evaluation.shots=1,devices=1,"
        f"weights=random,{options}"
    )
    listed = make_run(config).data.base.queries
    assert 0 < len(listed) < 40


def in_plain_loops(areas, listed, novel):
    """The shares in the docstring's words."""
    pairs, images, pixels, nothing = [0, 0], [0, 0], [0, 0], 0
    for p in listed:
        present = [c for c in range(1, areas.shape[1]) if areas[p, c] >= 1]
        hidden = [c for c in present if c in novel]
        for share, part, whole in (
            (pairs, len(hidden), len(present)),
            (images, bool(hidden), 1),
            (pixels, sum(int(areas[p, c]) for c in hidden), int(areas[p, 1:].sum())),
        ):
            share[0] += part
            share[1] += whole
        nothing += int(areas[p, 0])
    background = (pixels[0], pixels[0] + nothing)
    shares = {"pairs": pairs, "images": images, "pixels": pixels, "background": background}
    return {name: tuple(share) for name, share in shares.items()}


@st.composite
def tables(draw):
    """Random areas, some of their images, and some classes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31 - 1)))
    images, classes = draw(st.integers(1, 12)), draw(st.integers(2, 6))
    shape = (images, classes + 1)
    areas = (rng.integers(0, 120, shape) * (rng.random(shape) < 0.5)).astype(np.int32)
    listed = np.flatnonzero(rng.random(images) < 0.6)
    novel = tuple(1 + np.flatnonzero(rng.permutation(classes) < draw(st.integers(1, classes - 1))))
    return areas, listed, tuple(map(int, novel))


@settings(max_examples=150, deadline=None)
@given(tables())
def test_shares_agree_with_plain_loops(drawn):
    areas, listed, novel = drawn
    shares = hidden_shares(areas, listed, novel)
    assert {name: tuple(s) for name, s in shares.items()} == in_plain_loops(areas, listed, novel)


@settings(max_examples=100, deadline=None)
@given(tables())
def test_shares_depend_on_what_hides_alone(drawn):
    areas, listed, novel = drawn
    shares = hidden_shares(areas, listed, novel)
    assert all(0 <= share.part <= share.whole for share in shares.values())
    # Without the images that show a novel class nothing hides.
    clean = listed[(areas[np.ix_(listed, novel)] == 0).all(1)]
    assert all(share.part == 0 for share in hidden_shares(areas, clean, novel).values())
    # Base classes change hands, and what hides does not.
    base = [c for c in range(1, areas.shape[1]) if c not in novel]
    mixed = areas.copy()
    mixed[:, base] = areas[:, base[::-1]]
    assert hidden_shares(mixed, listed, novel) == shares


def test_large_data_do_not_overflow():
    areas = np.full((3, 3), 2**30, np.int32)
    shares = hidden_shares(areas, np.arange(3), (1,))
    assert shares["pixels"] == (3 * 2**30, 6 * 2**30)
    assert shares["background"] == (3 * 2**30, 6 * 2**30)


@pytest.mark.skipif(not LISTS.exists(), reason="the lists are not beside the project")
@pytest.mark.parametrize(
    ("fold", "pairs", "images"), [(0, 7.5, 11.6), (1, 12.5, 18.8), (2, 23.5, 32.8), (3, 8.7, 11.7)]
)
def test_pairs_are_the_papers_rule_of_pascal(fold, pairs, images):
    with (LISTS / "class_pixels.csv").open() as file:
        lines = {line["id"]: line for line in csv.DictReader(file)}
    pixels = {name: [int(line[str(c)]) for c in range(1, 21)] for name, line in lines.items()}
    areas = np.array([[0, *pixels[name]] for name in (LISTS / "train.txt").read_text().split()])
    novel = tuple(range(5 * fold + 1, 5 * fold + 6))
    base = np.delete(areas, [0, *novel], 1)
    shares = hidden_shares(areas, np.flatnonzero((base >= 2048).any(1)), novel)
    assert [round(shares[name].percent, 1) for name in ("pairs", "images")] == [pairs, images]


def test_an_empty_whole_is_no_number():
    rows = {0: {"pairs": Share(0, 0)}, 2: {"pairs": Share(1, 8)}}
    assert table(rows).splitlines() == [
        "| % | fold 0 | fold 2 |",
        "|---|---|---|",
        "| pairs | none | 12.5 |",
    ]


def test_images_are_shown_that_show_something():
    #                  background, ant, bee, cat
    areas = np.array([(0, 9, 0, 9), (0, 8, 0, 8), (0, 0, 2, 7), (0, 0, 0, 9), (0, 9, 0, 0)])
    chosen = images_to_show(areas, np.arange(5), (1, 2), 9)
    assert chosen == [0, 2, 1]
    assert images_to_show(areas, np.array([1, 3]), (1, 2), 9) == [1]
    assert images_to_show(areas, np.arange(5), (1, 2), 2) == [0, 2]


def test_a_sheet_tints_base_and_hidden_objects(prepared):
    data = open_records(prepared)
    sheet = contact_sheet(data, {0: np.array([0])}, 1)
    # The label's rows: cat (base) above, then ant (novel), then nothing.
    drawn = sheet[26:46, 8:28].astype(int)
    # Tinted half, or outlined in full, on a black image.
    for row, colour in ((2, GIVEN), (6, PREDICTION)):
        strength = (drawn[row, 2:18] @ np.array(colour)) / np.square(colour).sum()
        assert ((0.45 < strength) & (strength < 1.05)).all()
        off = drawn[row, 2:18] - strength[:, None] * np.array(colour)
        assert np.abs(off).max() < 8
    assert (drawn[10:] < 12).all()
    assert contact_sheet(data, {0: np.array([1])}, 1) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--config"),
        (["--config=folder:records=/nowhere"], "holds no records"),
        (["--config=folder:recrods=x"], "did you mean"),
        (["{config},fold=5"], "no fold 5"),
        (["--config=folder:records={records},min_area=300"], "at least 300"),
        (["{config}", "--output={records}/index.json"], "cannot be written"),
        (["{config}", "more"], "unrecognized arguments: more"),
    ],
)
def test_bad_input_is_one_line(prepared, arguments, said):
    given = [a.format(config=config_for(prepared), records=prepared) for a in arguments]
    assert_refused(run_script("hidden_classes", *given), said)
