"""The order of episodes under budgets: what passes the backbone, and what is held when."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apanet_jax.data.episodes import Episode
from apanet_jax.evaluation.feature_store import BEYOND, DEVICE, DISK, MEMORY, Ledger
from apanet_jax.evaluation.plan import Job, Plan, Sizes, needs

SIZES = Sizes(10, lambda image, class_id: 1 + (image + class_id) % 3)


def drawn(seed, episodes=60, images=20, classes=3, shots=2):
    rng = np.random.default_rng(seed)
    of_class = {c: rng.permutation(images)[: images // 2] for c in range(1, classes + 1)}
    jobs = []
    for number in range(episodes):
        class_id = int(rng.integers(1, classes + 1))
        query, *supports = rng.permutation(of_class[class_id])[: 1 + shots].tolist()
        jobs.append(Job(number, Episode(query, class_id, tuple(supports))))
    return jobs


def planned(jobs, budgets, sizes=SIZES, least=2):
    plan = Plan(jobs, sizes, sum(budgets), least)
    return plan, needs(plan, sizes, Ledger(budgets))


class Checking:
    """Holds what it is told to hold, and refuses to compare what it does not hold."""

    def __init__(self, ledger):
        self.ledger, self.done = ledger, []
        self.passes = 0

    def embed(self, supports, also_queries):
        assert set(also_queries) <= supports.keys()
        for image, classes in supports.items():
            self.passes += 1
            if image in also_queries:
                self.ledger.add(("query", image), SIZES.query)
            for class_id in classes:
                assert ("support", image, class_id) not in self.ledger
                size = SIZES.support(image, class_id)
                self.ledger.add(("support", image, class_id), size, required=True)

    def compare(self, window, missing, present):
        assert sorted([*missing, *present]) == sorted(window.jobs)
        for query in [*missing, *present]:
            assert (("query", query) in self.ledger) == (query in present)
            for job in window.jobs[query]:
                assert job.episode.query == query
                for support in job.episode.supports:
                    assert ("support", support, job.episode.class_id) in self.ledger
                self.done.append(job.number)
        for query in missing:
            self.passes += 1
            self.ledger.add(("query", query), SIZES.query)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    budgets=st.tuples(*[st.sampled_from([0, 3, 17, 40, 90, 1000])] * 3),
    least=st.integers(1, 5),
)
def test_every_episode_is_scored_once_with_all_it_needs(seed, budgets, least):
    jobs = drawn(seed)
    plan, found = planned(jobs, budgets, least=least)
    worker = Checking(Ledger(budgets))
    plan.carry_out(worker.ledger, worker)
    assert sorted(worker.done) == list(range(len(jobs)))
    assert found.passes == worker.passes and found.episodes == len(jobs)
    assert found.bytes == tuple(worker.ledger.peak)
    for used, budget in zip(found.bytes, budgets, strict=False):
        assert used <= budget


def test_what_the_budgets_hold_passes_once():
    jobs = drawn(0)
    _, found = planned(jobs, (0, 200, 100))
    assert found.windows == 1 and found.bytes[BEYOND] == found.bytes[DEVICE] == 0
    assert found.passes == found.images
    assert found.supports == len(
        {(s, j.episode.class_id) for j in jobs for s in j.episode.supports}
    )


def test_less_room_never_breaks_a_budget_and_costs_passes():
    jobs = drawn(1)
    passes = [planned(jobs, (0, 0, room))[1].passes for room in (300, 100, 60, 30, 0)]
    assert passes == sorted(passes) and passes[0] < passes[-1]
    # Nothing is kept at all: a query passes for each of its classes, a support for each window.
    assert passes[-1] <= sum(1 + len(job.episode.supports) for job in jobs)


def test_what_is_held_already_does_not_pass_again():
    jobs, ledger = drawn(2), Ledger((0, 1000, 0))
    plan = Plan(jobs, SIZES, ledger.room, 2)
    first, again = needs(plan, SIZES, ledger), needs(plan, SIZES, ledger)
    assert first.passes > 0 and again.passes == again.supports == 0


def test_queries_that_lie_on_disk_already_are_not_copied_there():
    sizes = Sizes(10, SIZES.support, DEVICE + 1)
    _, found = planned(drawn(3), (0, 1000, 1000), sizes)
    assert found.bytes[MEMORY] < 10 * 20 and found.bytes[DISK] == 0


def test_the_summary_names_what_will_be_needed():
    _, found = planned(drawn(4), (0, 1e9, 0), Sizes(1e8, lambda *_: 1e7))
    text = found.lines((0, 1e9, 0), 180)
    assert "60 episodes of" in text and "(180 without keeping features)" in text
    assert "of 1.00 GB in memory" in text and "windows" in text and text.count("\n") == 1


@pytest.mark.parametrize("room", [0, 50, 10**6])
def test_no_episodes_need_nothing(room):
    _, found = planned([], (0, room, 0))
    assert found.passes == found.windows == 0
