"""Hidden novel classes: counted by hand on a small tree, and by plain loops on random tables."""

import json
import math
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from apanet_jax.data import records
from apanet_jax.data.sources import pascal
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.reports.overlays import GIVEN, PREDICTION
from apanet_jax.runs.run import make_run, training_lists
from configs import folder
from experiments.paper.hidden_classes import (
    Share,
    contact_sheet,
    hidden_shares,
    pictures_to_show,
    table,
    verdict,
)
from tests import trees
from tests.scripts import run_script

SIDE, MIN_AREA = 20, 50
NAMES = ("ant", "bee", "cat", "dog")
FOLDS = (("ant", "bee"), ("cat", "dog"))
PICTURES = (
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
"""Pixels of 255, by picture."""

LISTED = {0: [0, 1, 2, 5, 6], 1: [0, 3, 4, 5, 7]}
# Counted by hand from PICTURES, 400 pixels each.
BY_HAND = {
    0: {
        "pictures": (3, 5),
        "labels": (4, 9),
        "pictures of all": (3, 6),
        "labels of all": (4, 7),
        "large pictures": (2, 5),
        "large labels": (3, 8),
        "large pictures of all": (2, 5),
        "large labels of all": (3, 6),
        "pixels": (170, 560),
        "pixels of all": (170, 440),
        "background": (170, 2000 - 20 - 390),
    },
    1: {
        "pictures": (4, 5),
        "labels": (4, 10),
        "pictures of all": (4, 7),
        "labels of all": (4, 7),
        "large pictures": (2, 5),
        "large labels": (2, 8),
        "large pictures of all": (2, 5),
        "large labels of all": (2, 5),
        "pixels": (210, 640),
        "pixels of all": (210, 420),
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
    """The records of PICTURES, from a tree in VOC's layout."""
    root = tmp_path_factory.mktemp("hidden")
    names = [f"p{i}" for i in range(len(PICTURES))]
    for split, chosen in (("train", names), ("val", names[-1:])):
        trees.write_list(root / "mine" / "ImageSets" / "Segmentation" / f"{split}.txt", chosen)
    for i, name in enumerate(names):
        image = np.full((SIDE, SIDE, 3), 20 * i, np.uint8)
        trees.save_image(root / "mine" / "JPEGImages" / f"{name}.jpg", image)
        label = label_of(PICTURES[i], IGNORED.get(i, 0))
        trees.save_label(root / "mine" / "SegmentationClass" / f"{name}.png", label)
    (root / "mine" / "classes.txt").write_text("\n".join(NAMES) + "\n")
    (root / "mine" / "folds.json").write_text(json.dumps(FOLDS))
    records.write(FolderSource(root / "mine"), root / "records")
    return root / "records"


def config_for(directory, options=f"min_area={MIN_AREA}"):
    return f"configs/folder.py:records={directory},{options}"


@pytest.mark.parametrize("fold", [0, 1])
def test_every_rule_counts_what_a_hand_counts(prepared, fold):
    data = records.open_records(prepared)
    config = folder.get_config(f"records={prepared},min_area={MIN_AREA},fold={fold}")
    listed = training_lists(config, data).queries
    assert listed.tolist() == LISTED[fold]
    novel = tuple(NAMES.index(name) + 1 for name in FOLDS[fold])
    assert hidden_shares(data.split("train").areas, listed, novel, MIN_AREA) == BY_HAND[fold]


@pytest.mark.slow
def test_the_script_writes_what_a_hand_counts(prepared, tmp_path):
    done = run_script(
        "hidden_classes.py",
        f"--config={config_for(prepared)},folds=all",
        f"--output={tmp_path / 'new' / 'out'}",
        "--pictures=3",
    )
    assert done.returncode == 0, done.stderr
    output = tmp_path / "new" / "out"
    result = json.loads((output / "hidden_classes.json").read_text())
    for fold, found in zip((0, 1), result["folds"], strict=True):
        counted = {rule: (s["part"], s["whole"]) for rule, s in found["shares"].items()}
        assert counted == BY_HAND[fold] and found["novel"] == list(FOLDS[fold])
    assert found["shares"]["pictures"]["percent"] == 80
    text = (output / "hidden_classes.md").read_text()
    assert text.strip() in done.stdout and "Fold-2" not in text
    assert "8 pictures; training list: 5 in fold 0, 5 in fold 1." in text
    for line in ("| pictures | 60.0 | 80.0 |", "| labels of all | 57.1 | 57.1 |"):
        assert line in text.splitlines()
    for name in ("hidden_classes.png", "hidden_pictures.png"):
        with Image.open(output / name) as image:
            assert min(image.size) > 100


@pytest.mark.slow
def test_a_config_without_folds_counts_its_own(prepared, tmp_path):
    done = run_script("hidden_classes.py", f"--config={config_for(prepared)},fold=1")
    assert done.returncode == 0, done.stderr
    assert "| % | fold 1 |" in done.stdout and "| pictures | 80.0 |" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("options", ["shot=5", "support_gap=18"])
def test_the_list_is_the_one_that_training_reads(tmp_path, options):
    tree = trees.folder_tree(tmp_path / "mine", train=40, val=40)
    records.write(FolderSource(tree), tmp_path / "records")
    config = folder.get_config(
        f"records={tmp_path / 'records'},min_area=400,fold=1,evaluation.shots=1,devices=1,"
        f"weights=random,{options}"
    )
    listed = training_lists(config, records.open_records(tmp_path / "records")).queries
    assert 0 < len(listed) < 40
    np.testing.assert_array_equal(listed, make_run(config).base.queries)


def in_plain_loops(areas, listed, novel, least):
    """The rules named "large" (with least=1 the others) in the docstring's words."""
    parts = {"pictures": 0, "labels": 0, "pixels": 0}
    any_class, all_novel, nothing = dict(parts), dict(parts), 0
    for p, row in enumerate(areas):
        present = [c for c in range(1, len(row)) if row[c] >= least]
        hidden = [c for c in present if c in novel]
        pixels = sum(int(row[c]) for c in novel)
        counts = {"pictures": bool(hidden), "labels": len(hidden), "pixels": pixels}
        for unit, count in counts.items():
            all_novel[unit] += count
            parts[unit] += count * (p in listed)
        if p in listed:
            any_class["pictures"] += 1
            any_class["labels"] += len(present)
            any_class["pixels"] += sum(int(area) for area in row[1:])
            nothing += int(row[0])
    shares = {unit: (parts[unit], any_class[unit]) for unit in parts}
    shares |= {f"{unit} of all": (parts[unit], all_novel[unit]) for unit in parts}
    return shares | {"background": (parts["pixels"], parts["pixels"] + nothing)}


@st.composite
def tables(draw):
    """Random areas, some pictures of them, and some classes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31 - 1)))
    pictures, classes = draw(st.integers(1, 12)), draw(st.integers(2, 6))
    shape = (pictures, classes + 1)
    areas = (rng.integers(0, 120, shape) * (rng.random(shape) < 0.5)).astype(np.int32)
    listed = np.flatnonzero(rng.random(pictures) < 0.6)
    novel = tuple(1 + np.flatnonzero(rng.permutation(classes) < draw(st.integers(1, classes - 1))))
    return areas, listed, tuple(map(int, novel))


@settings(max_examples=150, deadline=None)
@given(tables(), st.integers(0, 100))
def test_rules_agree_with_plain_loops(drawn, min_area):
    areas, listed, novel = drawn
    shares = hidden_shares(areas, listed, novel, min_area)
    expected = in_plain_loops(areas, listed, novel, 1)
    large = in_plain_loops(areas, listed, novel, max(min_area, 1))
    expected |= {f"large {rule}": large[rule] for rule in large if rule[:4] in ("pict", "labe")}
    assert {rule: tuple(share) for rule, share in shares.items()} == expected


@settings(max_examples=100, deadline=None)
@given(tables())
def test_shares_are_shares(drawn):
    areas, listed, novel = drawn
    shares = hidden_shares(areas, listed, novel, 50)
    assert all(0 <= share.part <= share.whole for share in shares.values())
    everything = hidden_shares(areas, np.arange(len(areas)), novel, 50)
    for rule in ("pictures", "labels", "pixels", "large pictures", "large labels"):
        assert math.isnan(everything[f"{rule} of all"].percent) or (
            everything[f"{rule} of all"].percent == 100
        )
    # Without the pictures that show a novel class nothing hides.
    clean = listed[(areas[np.ix_(listed, novel)] == 0).all(1)]
    assert all(share.part == 0 for share in hidden_shares(areas, clean, novel, 50).values())
    # Base classes change hands, and what hides does not.
    base = [c for c in range(1, areas.shape[1]) if c not in novel]
    mixed = areas.copy()
    mixed[:, base] = areas[:, base[::-1]]
    assert hidden_shares(mixed, listed, novel, 50) == shares


def test_large_data_do_not_overflow():
    areas = np.full((3, 3), 2**30, np.int32)
    shares = hidden_shares(areas, np.arange(3), (1,), 50)
    assert shares["pixels"] == (3 * 2**30, 6 * 2**30)
    assert shares["background"] == (3 * 2**30, 6 * 2**30)


def test_an_empty_whole_is_no_number():
    rows = {0: {"labels": Share(0, 0)}, 2: {"labels": Share(1, 8)}}
    assert table(rows).splitlines() == [
        "| % | fold 0 | fold 2 |",
        "|---|---|---|",
        "| labels | none | 12.5 |",
    ]


def official(**changes):
    data = {"name": "pascal", "class_names": pascal.CLASS_NAMES, "folds": pascal.FOLDS}
    return types.SimpleNamespace(**(data | {"split": lambda _: range(5953)} | changes))


ROWS = {
    1: {"pictures": Share(235, 1000), "labels": Share(1, 2), "pixels": Share(1, 3)},
    2: {"pictures": Share(1, 5), "labels": Share(24, 100), "pixels": Share(0, 0)},
}


def test_pascal_decides_the_rule():
    said = verdict(official(), ROWS)
    assert "the nearest rule is 'labels' (24.00 %), then 'pictures' (20.00 %)" in said


def test_only_the_official_data_decide():
    assert verdict(official(), {1: ROWS[1]}) is None
    assert verdict(official(split=lambda _: range(8284)), ROWS) is None
    assert verdict(official(name="mine"), ROWS) is None
    assert verdict(official(folds=pascal.FOLDS[::-1]), ROWS) is None


def test_pictures_are_shown_that_show_something():
    #                  background, ant, bee, cat
    areas = np.array([(0, 9, 0, 9), (0, 8, 0, 8), (0, 0, 2, 7), (0, 0, 0, 9), (0, 9, 0, 0)])
    chosen = pictures_to_show(areas, np.arange(5), (1, 2), 9)
    assert chosen == [0, 2, 1]
    assert pictures_to_show(areas, np.array([1, 3]), (1, 2), 9) == [1]
    assert pictures_to_show(areas, np.arange(5), (1, 2), 2) == [0, 2]


def test_a_sheet_tints_base_and_hidden_objects(prepared):
    data = records.open_records(prepared)
    sheet = contact_sheet(data, {0: np.array([0])}, 1)
    # The label's rows: cat (base) above, then ant (novel), then nothing.
    drawn = sheet[26:46, 8:28].astype(int)
    # Tinted half, or outlined in full, on a black picture.
    for row, colour in ((2, GIVEN), (6, PREDICTION)):
        strength = (drawn[row, 2:18] @ np.array(colour)) / np.square(colour).sum()
        assert ((0.45 < strength) & (strength < 1.05)).all()
        off = drawn[row, 2:18] - strength[:, None] * np.array(colour)
        assert np.abs(off).max() < 8
    assert (drawn[10:] < 12).all()
    assert contact_sheet(data, {0: np.array([1])}, 1) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no --config"),
        (["--config=configs/folder.py:records=/nowhere"], "holds no records"),
        (["--config=configs/folder.py:recrods=x"], "did you mean"),
        (["{config},fold=5"], "no fold 5"),
        (
            ["--config=configs/folder.py:records={records},min_area=300"],
            "supports with at least 300 pixels",
        ),
        (["{config}", "--output={records}/index.json"], "cannot be written"),
        (["{config}", "more"], "unexpected argument"),
    ],
)
def test_bad_input_is_one_line(prepared, arguments, said):
    given_arguments = [
        a.format(config=f"--config={config_for(prepared)}", records=prepared) for a in arguments
    ]
    done = run_script("hidden_classes.py", *given_arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: "), done.stderr
    assert said in done.stderr
