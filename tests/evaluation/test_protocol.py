"""Episodes and scores against the benchmark's protocol, written out again slowly from its text."""

import itertools
import json
import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.evaluation.metrics import SummedCounts
from apanet_jax.evaluation.protocol import count_episodes, make_count
from apanet_jax.runs.run import make_run
from apanet_jax.runtime.programs import Programs
from configs import folder
from tests import trees

CLASSES = 9
FOLDS = [[1, 4, 7], [2, 5, 8], [3, 6, 9]]
FOLD = 1
NOVEL = FOLDS[FOLD]
BASE = [c for c in range(1, CLASSES + 1) if c not in NOVEL]
PICTURES = {"train": 100, "val": 150}
EPISODES = 200
CELLS = 9
RUN_LENGTHS = [1, 30, 400, 2047, 2048, 2049, 2500]


def odd_label(rng):
    """A label of any size, framed by 255: runs of some classes, with 255 and 0 between them."""
    height, width = rng.integers(37, 92, 2)
    inside = np.zeros((height - 2) * (width - 2), np.uint8)
    start = 0
    for class_id in rng.permutation(np.arange(1, CLASSES + 1))[:4]:
        length = int(rng.choice(RUN_LENGTHS))
        if start + length > len(inside):
            continue
        inside[start : start + length] = class_id
        inside[start + length : start + length + 5] = 255
        start += length + 8
    return np.pad(inside.reshape(height - 2, width - 2), 1, constant_values=255)


def colour(number):
    """A colour that tells a picture's number, also after JPEG and blurring."""
    return 20 + 40 * np.array([number // 36, number // 6 % 6, number % 6])


def number_of(pixel):
    digits = np.rint((pixel.astype(int) - 20) / 40).astype(int)
    number = int(digits @ (36, 6, 1))
    assert np.abs(pixel - colour(number)).max() < 10
    return number


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """The labels of each split, and the folder of their records."""
    root = tmp_path_factory.mktemp("protocol")
    rng = np.random.default_rng(7)
    made = {split: [odd_label(rng) for _ in range(n)] for split, n in PICTURES.items()}
    for split, split_labels in made.items():
        names = [f"{split}_{n:03d}" for n in rng.permutation(len(split_labels))]
        trees.write_list(root / "mine/ImageSets/Segmentation" / f"{split}.txt", names)
        for number, (name, label) in enumerate(zip(names, split_labels, strict=True)):
            image = np.broadcast_to(colour(number).astype(np.uint8), (*label.shape, 3))
            trees.save_image(root / "mine/JPEGImages" / f"{name}.jpg", image)
            trees.save_label(root / "mine/SegmentationClass" / f"{name}.png", label)
    (root / "mine/classes.txt").write_text("".join(f"c{c}\n" for c in range(1, CLASSES + 1)))
    (root / "mine/folds.json").write_text(json.dumps([[f"c{c}" for c in f] for f in FOLDS]))
    write_records(FolderSource(root / "mine"), root / "records")
    return types.SimpleNamespace(**made, records=root / "records")


def run_of(labels, options=""):
    return make_run(
        folder.get_config(
            f"records={labels.records},fold={FOLD},keep=False,weights=random,image_size=65,"
            "augmentation.longer_side=0,shots=1+5,evaluation.batch_size=16,training.batch_size=4,"
            f"devices=1,{options}"
        )
    )


@pytest.fixture(scope="module")
def run(labels):
    return run_of(labels)


def area(label, class_id):
    return int((label == class_id).sum())


def class_lists(split_labels, class_ids):
    """By class, the pictures that it covers at least 2 * 32 * 32 pixels of."""
    return {
        c: [n for n, label in enumerate(split_labels) if area(label, c) >= 2 * 32 * 32]
        for c in class_ids
    }


def listed(split_labels, class_ids):
    lists = class_lists(split_labels, class_ids)
    return [n for n in range(len(split_labels)) if any(n in lists[c] for c in class_ids)]


def episode_label(label, class_id):
    result = np.zeros_like(label)
    for y, x in np.ndindex(label.shape):
        if label[y, x] == class_id:
            result[y, x] = 1
        elif label[y, x] == 255:
            result[y, x] = 255
    return result


def resized(cells, side):
    """Bilinear, the corners of both on each other."""
    last = cells.shape[0] - 1

    def neighbours(n):
        position = n * last / (side - 1)
        low = min(math.floor(position), last - 1)
        return low, position - low

    places = [neighbours(n) for n in range(side)]
    result = np.empty((side, side))
    for (y, (top, down)), (x, (left, right)) in itertools.product(enumerate(places), repeat=2):
        upper = (1 - right) * cells[top, left] + right * cells[top, left + 1]
        lower = (1 - right) * cells[top + 1, left] + right * cells[top + 1, left + 1]
        result[y, x] = (1 - down) * upper + down * lower
    return result


def pixels(difference, label):
    """Intersection and union of background and foreground, for logits' difference at full size."""
    height, width = label.shape
    found = difference[:height, :width] > 0
    truth, counted = label == 1, label != 255
    sides = [(~found, ~truth), (found, truth)]
    return np.array([[(p & t & counted).sum(), ((p | t) & counted).sum()] for p, t in sides]).T


def taken(batches):
    """The episodes of some batches, one by one."""
    with batches:
        for batch in batches:
            for row in np.flatnonzero(batch["valid"]):
                yield types.SimpleNamespace(**{key: value[row] for key, value in batch.items()})


def identity(episode, corner):
    """Query, class and supports, seen in the pictures' colours."""
    supports = [number_of(image[corner, corner]) for image in episode.support_images]
    return number_of(episode.query_image[corner, corner]), int(episode.class_id), supports


def identities(run, shot, episodes=EPISODES):
    return [identity(e, corner=0) for e in taken(run.data.test_batches(shot, range(episodes)))]


def test_the_pictures_put_the_rules_to_the_test(labels):
    for split_labels, class_ids in ((labels.train, BASE), (labels.val, NOVEL)):
        lists = class_lists(split_labels, class_ids)
        areas = {area(label, c) for label in split_labels for c in class_ids}
        assert min(map(len, lists.values())) > 5 and {1, 2047, 2048} <= areas
        chosen = listed(split_labels, class_ids)
        assert 10 < len(chosen) < len(split_labels) - 5
        present = [[c for c in class_ids if (split_labels[n] == c).any()] for n in chosen]
        assert sum(len(classes) > 1 for classes in present) > 5
        small = sum(n not in lists[c] for n, cs in zip(chosen, present, strict=True) for c in cs)
        assert small > 5


@pytest.mark.parametrize("shot", [1, 5])
def test_test_episodes_follow_the_protocol(labels, run, shot):
    lists, order = class_lists(labels.val, NOVEL), listed(labels.val, NOVEL)
    found = identities(run, shot)
    assert [query for query, _, _ in found] == list(
        itertools.islice(itertools.cycle(order), EPISODES)
    )
    for query, class_id, supports in found:
        assert class_id in NOVEL and (labels.val[query] == class_id).any()
        assert len(supports) == len(set(supports)) == shot
        assert query not in supports and set(supports) <= set(lists[class_id])
    assert {(q, c) for q, c, _ in found if q not in lists[c]}, "no small query was asked for"
    assert {s for _, _, supports in found for s in supports} == set().union(*lists.values())


def test_the_seed_alone_decides_on_the_episodes(labels, run):
    first = identities(run, 5)
    assert first == identities(run_of(labels, "seed=9,evaluation.batch_size=5"), 5)
    other = identities(run_of(labels, "evaluation.seed=322"), 5)
    assert [query for query, _, _ in first] == [query for query, _, _ in other]
    assert sum(a != b for a, b in zip(first, other, strict=True)) > EPISODES / 2


@pytest.mark.parametrize("shot", [1, 5])
def test_test_labels_are_the_original_ones_of_the_class(labels, run, shot):
    for episode in taken(run.data.test_batches(shot, range(EPISODES))):
        query, class_id, _ = identity(episode, corner=0)
        expected = episode_label(labels.val[query], class_id)
        height, width = expected.shape
        assert episode.original_side == max(height, width)
        np.testing.assert_array_equal(episode.original_label[:height, :width], expected)
        assert (episode.original_label[height:] == 255).all()
        assert (episode.original_label[:, width:] == 255).all()


def random_logits(sides):
    """A map of background and foreground per episode, with its difference at each side's size.

    Every tenth finds no foreground, every tenth nothing else. None is so near to a tie anywhere
    that rounding could decide.
    """
    rng = np.random.default_rng(0)
    logits, differences = [], []
    for number, side in enumerate(sides):
        nearest = 0
        while nearest < 1e-5:
            maps = rng.standard_normal((CELLS, CELLS, 2)).astype(np.float32)
            if number % 10 < 2:
                maps[..., number % 10] = np.abs(maps[..., number % 10])
                maps[..., 1 - number % 10] = -np.abs(maps[..., 1 - number % 10])
            background, foreground = np.moveaxis(maps.astype(np.float64), -1, 0)
            difference = resized(foreground - background, side)
            nearest = np.abs(difference).min()
        logits.append(maps)
        differences.append(difference)
    return np.stack(logits), differences


@pytest.mark.parametrize(("shot", "episodes"), [(1, EPISODES), (5, EPISODES), (1, 1)])
def test_scores_follow_the_protocol(labels, run, shot, episodes):
    asked = identities(run, shot, episodes)
    logits, differences = random_logits([max(labels.val[query].shape) for query, _, _ in asked])

    def network(_, __, batch):
        return types.SimpleNamespace(logits=jnp.asarray(logits)[batch["index"]])

    with run.data.test_batches(shot, range(episodes)) as batches:
        counts, class_ids = count_episodes(
            make_count(network, {}, {}, run.mesh, Programs()), batches, episodes=episodes
        )
    sums = SummedCounts(CLASSES)
    sums.add(counts, class_ids)

    expected = {c: np.zeros((2, 2), int) for c in range(CLASSES + 1)}
    for (query, class_id, _), difference in zip(asked, differences, strict=True):
        expected[class_id] += pixels(difference, episode_label(labels.val[query], class_id))
    for c, (intersection, union) in expected.items():
        assert sums.intersection[c].tolist() == intersection.tolist()
        assert sums.union[c].tolist() == union.tolist()

    scores = sums.scores()
    # A class that no episode asked for has neither intersection nor union, so it has no IoU.
    seen = sorted({class_id for _, class_id, _ in asked})
    assert seen == NOVEL or episodes == 1
    ious = {c: 100 * expected[c][0, 1] / expected[c][1, 1] for c in seen}
    assert scores.iou_per_class == pytest.approx(ious, rel=1e-12)
    assert scores.miou == pytest.approx(sum(ious.values()) / len(ious), rel=1e-12)
    (background, foreground), (either, or_other) = sum(expected.values())
    fb_iou = 100 * (background / either + foreground / or_other) / 2
    assert scores.fb_iou == pytest.approx(fb_iou, rel=1e-12)


def test_a_training_epoch_asks_every_listed_picture_once(labels):
    run = run_of(labels, "training.batch_size=1,epochs=3,steps=0,shot=2")
    lists, chosen = class_lists(labels.train, BASE), listed(labels.train, BASE)
    assert run.steps == 3 * len(chosen)
    episodes = itertools.islice(taken(run.data.training_batches(0)), 2 * len(chosen))
    found = []
    for episode in episodes:
        query, class_id, supports = identity(episode, corner=32)
        assert class_id in BASE and (labels.train[query] == class_id).any()
        assert len(set(supports)) == 2 and set(supports) <= set(lists[class_id]) - {query}
        assert set(np.unique(episode.query_label)) <= {0, 1, 255}
        found.append((query, class_id))
    first, second = found[: len(chosen)], found[len(chosen) :]
    assert sorted(q for q, _ in first) == sorted(q for q, _ in second) == chosen
    assert [q for q, _ in first] != [q for q, _ in second]
    assert {c for _, c in found} == set(BASE)
    assert any(query not in lists[class_id] for query, class_id in found)


def test_a_partial_batch_of_an_epoch_is_no_step(labels):
    count = len(listed(labels.train, BASE))
    size = next(n for n in (4, 5, 7) if count % n)
    run = run_of(labels, f"training.batch_size={size},epochs=3,steps=0")
    assert run.steps == 3 * (count // size)
    asked = count - count % size
    episodes = itertools.islice(taken(run.data.training_batches(0)), 2 * asked)
    queries = [identity(episode, corner=32)[0] for episode in episodes]
    for epoch in (queries[:asked], queries[asked:]):
        assert len(set(epoch)) == asked
