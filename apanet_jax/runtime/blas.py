"""NumPy's products of matrices in one thread, where they are small."""

import contextlib
import functools
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController

_LIMITING = threading.RLock()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keeps NumPy's BLAS to one thread, in a block or as the decorator of a function.

    The products of an image are small: more threads spend most of their time waiting for each
    other, on cores that JAX, reading and writing have a use for. The number is the process's, so of
    blocks that overlap in several threads one limits it, and puts back what was there before.
    """
    # Two threads would put back each other's number: the last one, 1 for good.
    if not _LIMITING.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        _LIMITING.release()


@functools.cache
def _controller() -> ThreadpoolController:
    # Looking for libraries takes 13 ms; NumPy's is there as long as the process is.
    return ThreadpoolController()
