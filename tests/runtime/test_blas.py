"""NumPy's BLAS has one thread while an image is looked at, and as many as before afterwards."""

import threading

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.blas import one_blas_thread
from tests.inference.test_segmenter import LEFT, RED, ColourMatcher, scene


def threads() -> set[int]:
    return {x["num_threads"] for x in threadpool_info() if x["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(2, "blas"):
        if threads() != {2}:
            pytest.skip("this BLAS has one thread")
        yield


def test_blocks_may_be_nested_and_end_in_errors():
    with pytest.raises(ValueError), one_blas_thread():
        with one_blas_thread():
            assert threads() == {1}
        assert threads() == {1}
        raise ValueError
    assert threads() == {2}


def test_blocks_of_several_threads_that_overlap_leave_what_was_there():
    """The second of them found one thread, and put back one for good."""
    inside, ended = threading.Event(), threading.Event()

    def other():
        with one_blas_thread():
            inside.set()
            ended.wait(60)

    thread = threading.Thread(target=other)
    with one_blas_thread():
        thread.start()
        assert inside.wait(60) and threads() == {1}
    assert threads() == {2}
    ended.set()
    thread.join()
    assert threads() == {2}
    with one_blas_thread():
        assert threads() == {1}


def test_a_segmenter_learns_and_answers_in_one_thread():
    seen = []

    class Watching(ColourMatcher):
        def learn(self, *arguments):
            seen.append(threads())
            return super().learn(*arguments)

        def margins(self, *arguments):
            seen.append(threads())
            return super().margins(*arguments)

    image, mask = scene(RED, LEFT)
    (found,) = Segmenter(Watching()).fit([image], [mask]).predict([image])
    assert found.any()
    assert len(seen) >= 2 and set.union(*seen) == {1}
    assert threads() == {2}
