"""A fitted segmenter in a file: the same answers, and a line for what is no such file."""

import json
import multiprocessing
import pickle
import pickletools

import ml_dtypes
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

import apanet_jax
from apanet_jax.inference import segmenter
from apanet_jax.inference.answers.mask_options import MaskOptions
from apanet_jax.inference.heads import bundled
from apanet_jax.inference.heads.head_choice import HeadSource
from apanet_jax.inference.matching import frozen_matcher
from apanet_jax.inference.segmenter import Segmenter, from_bytes
from apanet_jax.inference.supports import saved_segmenter
from apanet_jax.inference.supports.saved_segmenter import Contents, SavedImage
from apanet_jax.runtime.errors import UserError
from tests.inference import test_frozen_matcher
from tests.inference.test_close_ups import ColourSquares
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, ColourMatcher, scene
from tests.inference.test_tiles import photograph

SMALL = HeadSource(None, "small", True)
SCENES = [scene(RED, LEFT), scene(RED, RIGHT), scene(RED, np.s_[10:40, 40:90])]


class Counting(ColourMatcher):
    """Counts the images that it embeds."""

    def __init__(self):
        self.embedded = 0

    def embed(self, square):
        self.embedded += 1
        return super().embed(square)


def fitted(made, supports=SCENES, classes=None):
    return Segmenter(made, head="small", source=SMALL).fit(*zip(*supports, strict=True), classes)


@pytest.fixture
def colours(monkeypatch):
    """Has a saved segmenter find ColourMatcher where it asks for its head."""
    monkeypatch.setattr(bundled, "open_matcher", lambda *_, **__: ("small", ColourMatcher()))


def test_a_supports_close_view_is_kept(colours, monkeypatch):
    monkeypatch.setattr(segmenter, "load_small_squares", ColourSquares)
    image, mask = photograph((900, 800), (500, 400), 90)
    first = Segmenter(ColourMatcher(), head="small", source=SMALL, size=800).fit([image], [mask])
    second = from_bytes(first.to_bytes())
    assert second.scales == first.scales and first.scales.zoom > 2
    np.testing.assert_array_equal(*(x.predict_margins([image])[0] for x in (first, second)))
    # A new mask of the image takes the place of the old one, though a part of it was kept alone.
    second.partial_fit([image], [np.roll(mask, -100, 0)])
    assert [len(x) for x in second.supports_.values()] == [1]


def frozen(head):
    """A matcher of the package's own kind, whose head says where the middle of a square is."""
    return test_frozen_matcher.matcher(test_frozen_matcher.StoringHead() if head else None)


@pytest.mark.parametrize("head", [False, True])
def test_a_saved_segmenter_gives_the_very_same_answers(tmp_path, monkeypatch, head):
    monkeypatch.setattr(bundled, "open_matcher", lambda *_, **__: ("small", frozen(head)))
    first = fitted(frozen(head))
    first.options = MaskOptions(threshold=0.4, smallest=3)
    first.save(tmp_path / "red.apanet")
    second = apanet_jax.load(tmp_path / "red.apanet")
    assert second.head == "small" and second.options == first.options
    assert second.classes_ == first.classes_ and second.decisions_ == first.decisions_
    queries = [scene(RED, np.s_[30:75, 20:80])[0], scene(GREEN, RIGHT)[0]]
    for one, other in zip(first.answers(queries), second.answers(queries), strict=True):
        np.testing.assert_array_equal(one.margin(0), other.margin(0))
        np.testing.assert_array_equal(one.scores, other.scores)
    # Nor do they differ when both learn on.
    new = [[x] for x in scene(RED, np.s_[5:30, 5:60])]
    for made in (first, second):
        made.partial_fit(*new)
    np.testing.assert_array_equal(*(x.predict_margins(queries) for x in (first, second)))
    # A second saving of what was loaded is the same file, byte by byte.
    assert second.to_bytes() == first.to_bytes()


def test_what_was_chosen_is_not_chosen_again(monkeypatch):
    monkeypatch.setattr(bundled, "open_matcher", lambda *_, **__: ("small", frozen(False)))
    content = fitted(frozen(False)).to_bytes()
    monkeypatch.setattr(
        test_frozen_matcher.FrozenMatcher, "_held_out", lambda *_: pytest.fail("chosen again")
    )
    assert segmenter.from_bytes(content).classes_ == [""]


@pytest.mark.parametrize("negatives", [0, 1])
def test_of_a_saved_segmenter_a_further_support_alone_is_compared(monkeypatch, negatives):
    """And its answers are those of all supports at once."""
    monkeypatch.setattr(bundled, "open_matcher", lambda *_, **__: ("small", frozen(True)))
    images, masks = zip(*SCENES, scene(RED, np.s_[5:30, 5:60]), strict=True)
    others = [scene(GREEN, LEFT)[0]] * negatives
    first = Segmenter(frozen(True), head="small", source=SMALL)
    content = first.fit(images[:3], masks[:3], negatives=others).to_bytes()
    compared, pair_densities = [], frozen_matcher.pair_densities
    monkeypatch.setattr(
        frozen_matcher, "pair_densities", lambda *x: compared.append(1) or pair_densities(*x)
    )
    second = from_bytes(content)
    assert second.to_bytes() == content
    second.partial_fit(images[3:], masks[3:])
    assert len(compared) == 2 * 3 + negatives
    at_once = Segmenter(frozen(True)).fit(images, masks, negatives=others)
    assert second.decisions_ == at_once.decisions_
    queries = [scene(RED, np.s_[30:75, 20:80])[0], scene(GREEN, RIGHT)[0]]
    np.testing.assert_array_equal(*(x.predict_margins(queries) for x in (second, at_once)))
    # A corrected mask is compared anew, as the second of a pair.
    compared.clear()
    second.partial_fit(images[:1], [masks[0] & np.tri(80, 120, dtype=bool)])
    assert len(compared) == 3


def test_new_supports_are_embedded_and_no_others():
    made = Counting()
    few = fitted(made, SCENES[:2])
    assert made.embedded == 2
    assert few.partial_fit(*([x] for x in SCENES[2])) is few
    assert made.embedded == 3
    all_at_once = fitted(ColourMatcher())
    query = scene(RED, LEFT)[0]
    np.testing.assert_array_equal(*(x.predict_margins([query]) for x in (few, all_at_once)))
    # Another class in an image that is a support already.
    green = [scene(GREEN, RIGHT)]
    made = Counting()
    named = fitted(made, green, ["leaf"]).partial_fit([green[0][0]], [~green[0][1]], ["ground"])
    assert made.embedded == 1 and named.classes_ == ["leaf", "ground"]


def test_a_corrected_mask_takes_the_place_of_the_first():
    image, mask = scene(RED, LEFT)
    image[RIGHT] = GREEN
    corrected = np.zeros_like(mask)
    corrected[RIGHT] = True
    found = fitted(ColourMatcher(), [(image, mask)]).partial_fit([image], [corrected])
    (labelled,) = found.predict([image])
    assert labelled[45, 95] and not labelled[45, 35]
    assert [len(x) for x in found.supports_.values()] == [1]


def test_what_cannot_be_learned_changes_nothing():
    image, mask = SCENES[0]
    made = fitted(ColourMatcher(), SCENES[:1])
    for given, message in (
        (([image], [mask], ["beetle"]), "supports so far have no class"),
        (([image], [mask & False]), "no foreground"),
        (([image, image], [mask, mask]), "given twice"),
    ):
        with pytest.raises(UserError, match=message):
            made.partial_fit(*given)
        assert made.classes_ == [""] and len(made.supports_[""]) == 1


def test_a_segmenter_is_pickled_as_it_is_saved(colours):
    made = fitted(ColourMatcher(), SCENES[:2], ["beetle", "leaf"])
    content = pickle.dumps(made)
    # One function of the package and bytes: a pickle of it holds no other code.
    names = [x for op, x, _ in pickletools.genops(content) if "UNICODE" in op.name]
    assert names == ["apanet_jax.inference.segmenter", "from_bytes"]
    again = pickle.loads(content)
    query = SCENES[2][0]
    np.testing.assert_array_equal(again.predict([query]), made.predict([query]))
    empty = pickle.loads(pickle.dumps(Segmenter(ColourMatcher(), source=SMALL)))
    assert empty.fit(*([x] for x in SCENES[0])).classes_ == [""]
    with pytest.raises(UserError, match="did not come from apanet_jax.load"):
        pickle.dumps(Segmenter(ColourMatcher()))


def test_other_weights_are_refused(colours, tmp_path, monkeypatch):
    fitted(ColourMatcher()).save(tmp_path / "red.apanet")
    monkeypatch.setattr(ColourMatcher, "fingerprints", lambda _: {"backbone": "f" * 64})
    with pytest.raises(UserError, match="small, whose backbone had weights of the hash none, and"):
        apanet_jax.load(tmp_path / "red.apanet")


def test_a_head_of_ones_own_is_looked_for_beside_the_file(tmp_path, monkeypatch):
    asked = []

    def opened(folder, *_, **__):
        asked.append(folder)
        return str(folder), ColourMatcher()

    monkeypatch.setattr(bundled, "open_matcher", opened)
    source = HeadSource(str(tmp_path / "run"), "auto", True)
    made = Segmenter(ColourMatcher(), source=source).fit(*([x] for x in SCENES[0]))
    made.save(tmp_path / "red.apanet")
    with pytest.raises(UserError, match="run, which is not there: put it there or at"):
        apanet_jax.load(tmp_path / "red.apanet")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "run").mkdir(parents=True)
    (tmp_path / "red.apanet").rename(elsewhere / "red.apanet")
    apanet_jax.load(elsewhere / "red.apanet")
    assert asked == [elsewhere / "run"]


def cut(content):
    return content[: len(content) * 2 // 3]


def flipped(content):
    """One bit of a feature is another."""
    return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]


def described_otherwise(content):
    return content.replace(b'\\"smallest\\": 0,', b'\\"smallest\\": 9,')


def newer(content):
    return content.replace(b'\\"version\\": 1', b'\\"version\\": 7')


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (cut, "is a saved segmenter that is damaged"),
        (flipped, "is a saved segmenter that is damaged"),
        (described_otherwise, "is a saved segmenter that is damaged"),
        (newer, "saved in form 7, this version of apanet_jax reads 1"),
        (lambda _: b"", "no saved segmenter"),
        (lambda x: x[:100], "no saved segmenter"),
        (lambda _: b"hello, this is no safetensors file", "no saved segmenter"),
        (lambda _: pickle.dumps({"a": 1}), "no saved segmenter"),
    ],
)
def test_what_is_no_whole_saved_segmenter_is_refused(colours, tmp_path, change, says):
    content, file = fitted(ColourMatcher()).to_bytes(), tmp_path / "red.apanet"
    changed = change(content)
    assert changed != content
    file.write_bytes(changed)
    with pytest.raises(UserError, match=says):
        apanet_jax.load(file)
    if change not in (flipped, described_otherwise):
        with pytest.raises(UserError, match="saved segmenter|saved in form"):
            saved_segmenter.class_names(file)


def test_what_is_not_there_is_said_to_be_so(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*/red.apanet: .* or a saved segmenter$"):
        apanet_jax.load(tmp_path / "red.apanet")


def test_weights_are_no_saved_segmenter(tmp_path):
    save_file({"a": np.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no saved segmenter"):
        apanet_jax.load(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="has its head and its size: give it alone"):
        apanet_jax.load(tmp_path / "model.safetensors", size=97)


def test_the_file_is_read_by_safetensors_and_its_header_alone_names_the_classes(tmp_path):
    made = fitted(ColourMatcher(), SCENES[:2], ["beetle", "leaf"])
    made.save(tmp_path / "two.apanet")
    with safe_open(tmp_path / "two.apanet", "np") as file:
        assert file.get_tensor("label.0").shape == (256, 256)
        described = json.loads(file.metadata()["apanet_jax_segmenter"])
    assert described["weights"] == {"backbone": "none"} and described["source"]["head"] == "small"
    assert saved_segmenter.class_names(tmp_path / "two.apanet") == ["beetle", "leaf"]


def test_a_file_in_the_way_stays_where_it_cannot_be_written(tmp_path, monkeypatch):
    made = fitted(ColourMatcher())
    (tmp_path / "red.apanet").write_bytes(b"before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("apanet_jax.runtime.atomic_files.synchronise", full)
    with pytest.raises(UserError, match="No space left"):
        made.save(tmp_path / "red.apanet")
    assert [x.name for x in tmp_path.iterdir()] == ["red.apanet"]
    assert (tmp_path / "red.apanet").read_bytes() == b"before"


def test_features_in_bfloat16_come_back():
    features = np.arange(12, dtype=np.float32).astype(ml_dtypes.bfloat16).reshape(1, 3, 4)
    image = SavedImage(np.zeros((2, 2, 3), np.uint8), {"block4": features})
    contents = Contents(SMALL, 2, None, {}, {}, {}, (), (image,))
    (found,) = saved_segmenter.from_bytes(saved_segmenter.to_bytes(contents), "it").images
    assert found.features["block4"].dtype == features.dtype
    np.testing.assert_array_equal(found.features["block4"], features)


def _marked(made, path):
    return int(made.predict([path])[0].sum())


@pytest.mark.slow
def test_another_process_finds_the_same(tmp_path):
    """With the drawn head, whose weights come with the installation."""
    made = apanet_jax.load(head="drawn", size=65).fit(*zip(*SCENES[:2], strict=True))
    Image.fromarray(SCENES[2][0]).save(tmp_path / "query.png")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (there,) = pool.starmap(_marked, [(made, str(tmp_path / "query.png"))])
    assert there == _marked(made, str(tmp_path / "query.png"))


def test_negatives_are_kept_and_join_later_ones(colours):
    image, mask = SCENES[0]
    others = [scene(GREEN, where)[0] for where in (LEFT, RIGHT)]
    first = Segmenter(ColourMatcher(), head="small", source=SMALL)
    first.fit([image], [mask], negatives=others[:1])
    second = pickle.loads(pickle.dumps(first))
    assert second.decisions_ == first.decisions_ and second.to_bytes() == first.to_bytes()
    second.partial_fit([], [], negatives=others[1:])
    assert len(second._negatives) == 2 and second.classes_ == first.classes_
    with pytest.raises(UserError, match="negative 1 is a support too"):
        first.partial_fit(others[:1], [mask])
