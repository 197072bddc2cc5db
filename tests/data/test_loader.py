"""The pipeline: the same batches whatever the number of workers, and wherever it starts."""

import functools

import numpy as np
import pytest

from apanet_jax.data.episodes import draw_evaluation, draw_training, episode_lists
from apanet_jax.data.loader import (
    batches,
    load_evaluation_episode,
    load_training_episode,
)
from apanet_jax.data.records.reading import open_records
from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.transforms import Augmentation, fit_square
from apanet_jax.runtime.errors import UserError
from tests import trees


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp("loader")
    write_records(FolderSource(trees.folder_tree(root / "mine")), root / "records")
    return open_records(root / "records").split("train")


@pytest.fixture(scope="module")
def lists(split):
    return episode_lists(split, (1, 2, 3, 4), shot=2, min_area=50)


@pytest.fixture(scope="module")
def load(split, lists):
    augmentation = Augmentation(size=48, longer_side=48)
    draw = functools.partial(draw_training, lists, seed=3, shot=2)
    return functools.partial(load_training_episode, split, draw, augmentation, seed=3)


def _take(iterator, count):
    with iterator:
        return [next(iterator) for _ in range(count)]


def _equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_batches_have_the_fixed_names_and_shapes(load):
    (batch,) = _take(batches(load, count=None, batch_size=4), 1)
    shapes = {key: (value.shape, str(value.dtype)) for key, value in batch.items()}
    assert shapes == {
        "query_image": ((4, 48, 48, 3), "uint8"),
        "query_label": ((4, 48, 48), "uint8"),
        "support_images": ((4, 2, 48, 48, 3), "uint8"),
        "support_labels": ((4, 2, 48, 48), "uint8"),
        "class_id": ((4,), "int32"),
        "valid": ((4,), "bool"),
    }
    assert set(np.unique(batch["query_label"])) <= {0, 1, 255}


def test_a_batch_is_its_elements(load, lists):
    second = _take(batches(load, count=None, batch_size=3), 2)[1]
    for row, index in enumerate((3, 4, 5)):
        element = load(index)
        for key, value in element.items():
            np.testing.assert_array_equal(second[key][row], value)
        episode = draw_training(lists, seed=3, index=index, shot=2)
        assert second["class_id"][row] == episode.class_id


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_workers_change_nothing_and_going_on_is_exact(load, workers):
    alone = _take(batches(load, count=None, batch_size=2), 5)
    with batches(load, count=None, batch_size=2, workers=workers) as iterator:
        first = [next(iterator) for _ in range(2)]
        state = iterator.state()
    rest = _take(batches(load, count=None, batch_size=2, start=state["position"]), 3)
    _equal(alone, first + rest)


def test_a_last_batch_is_filled_up_and_says_so(split, lists):
    draw = functools.partial(draw_evaluation, lists, seed=321, shot=1)
    load = functools.partial(load_evaluation_episode, split, draw, 49, 96)
    with batches(load, count=5, batch_size=3) as iterator:
        all_batches = list(iterator)
    assert [b["valid"].tolist() for b in all_batches] == [[True] * 3, [True, True, False]]
    assert all_batches[1]["index"].tolist() == [3, 4, 4]


def test_evaluation_episodes_hold_the_original_label(split, lists):
    draw = functools.partial(draw_evaluation, lists, seed=321, shot=1)
    for index in range(4):
        arrays = load_evaluation_episode(split, draw, 49, 96, index)
        episode = draw(index)
        item = split[episode.query]
        h, w = item["label"].shape
        assert arrays["original_side"] == max(h, w)
        truth = np.where(item["label"] == 255, 255, item["label"] == episode.class_id)
        np.testing.assert_array_equal(arrays["original_label"][:h, :w], truth)
        assert (arrays["original_label"][h:] == 255).all()
        image, _ = fit_square(item["image"], item["label"], 49)
        np.testing.assert_array_equal(arrays["query_image"], image)


def _broken(number):
    if number == 3:
        raise UserError("picture 3 is broken: mend it")
    return {"x": np.zeros(2)}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_element_that_fails_says_why(workers):
    with batches(_broken, count=None, batch_size=2, workers=workers) as iterator:
        next(iterator)
        with pytest.raises(UserError, match="picture 3 is broken"):
            next(iterator)


@pytest.mark.parametrize(
    "says", ["a worker ended with exit code -7", "[Errno 28] No space left on device"]
)
def test_full_shared_memory_is_named(says):
    def full():
        raise RuntimeError(says)
        yield

    with batches(lambda index: {"a": np.int32(index)}, count=4, batch_size=2) as iterator:
        iterator._iterator = full()
        with pytest.raises(
            UserError, match="/dev/shm, is full: enlarge it, or pass workers=0"
        ) as told:
            next(iterator)
    assert "goes on from the newest checkpoint" in str(told.value)
