"""The implementations that kmeans_benchmark.py compares: ours, and peers that are only called.

Each function takes the device, "cpu" or "gpu", and returns a `Peer`; it raises ImportError where
the peer cannot run.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

OURS = "apanet_jax"


class Shape(NamedTuple):
    """What is clustered: `[batch, positions, channels]`, into how many clusters."""

    batch: int
    positions: int
    channels: int
    clusters: int


class Peer(NamedTuple):
    """An implementation that is installed.

    Attributes:
      prepare: from unit vectors, centres, rounds and the seeds that drew each picture's centres to
        a function of no arguments, which is timed and returns centres `[batch, clusters, channels]`
        in whatever form the peer has them.
      note: in what it differs from what was asked for.
    """

    prepare: Callable[..., Callable[[], Any]]
    note: str = ""


def ours(device: str) -> Peer:
    """This package: normalises by itself, and returns assignment and inertia too."""
    import jax

    from apanet_jax.kernels import kmeans

    def prepare(features, centres, rounds, seeds):
        x, start = jax.block_until_ready(jax.device_put((features, centres)))

        def run():
            result = kmeans(x, start.shape[1], rounds=rounds, init=start)
            return np.asarray(jax.block_until_ready(result).centres)

        return run

    return Peer(prepare, "on a CPU, rounds that would change nothing are left out")


def scikit_learn(device: str) -> Peer:
    """Lloyd's algorithm, Euclidean: on unit vectors its assignments differ from cosine's."""
    from sklearn.cluster import KMeans

    _only_cpu(device)

    def prepare(features, centres, rounds, seeds):
        def run():
            found = []
            for x, start in zip(features, centres, strict=True):
                model = KMeans(len(start), init=start, n_init=1, max_iter=rounds, tol=0)
                found.append(model.fit(x).cluster_centers_)
            return found

        return run

    return Peer(prepare, "Euclidean, centres are not made unit vectors; stops when nothing moves")


def faiss_spherical(device: str) -> Peer:
    """Spherical k-means of faiss, with the search that gives the assignment."""
    import faiss

    _only_cpu(device)

    def prepare(features, centres, rounds, seeds):
        def run():
            found = []
            for x, start in zip(features, centres, strict=True):
                limits = {"min_points_per_centroid": 1, "max_points_per_centroid": len(x)}
                model = faiss.Kmeans(x.shape[1], len(start), niter=rounds, spherical=True, **limits)
                model.train(x, init_centroids=start)
                model.index.search(x, 1)
                found.append(model.centroids)
            return found

        return run

    return Peer(prepare, "splits large clusters where one is empty")


def pytorch(device: str) -> Peer:
    """A few torch calls over the whole batch: what one writes without a library."""
    import torch
    from torch.nn import functional

    place = _torch_device(torch, device)

    def prepare(features, centres, rounds, seeds):
        x, start = _tensors(torch, place, features, centres)

        def run():
            c = start
            for _ in range(rounds):
                nearest = torch.argmax(x @ c.transpose(1, 2), -1)
                joined = functional.one_hot(nearest, c.shape[1]).to(x.dtype)
                c = functional.normalize(joined.transpose(1, 2) @ x, dim=-1)
            torch.argmax(x @ c.transpose(1, 2), -1)
            return c.cpu()

        return run

    return Peer(prepare)


def torch_kmeans(device: str) -> Peer:
    """torch-kmeans: batched, any distance."""
    import torch
    import torch_kmeans as library

    # It calls cosine a distance that should not be inverted, each time.
    warnings.filterwarnings("ignore", message="standard k-means should")

    place = _torch_device(torch, device)

    def prepare(features, centres, rounds, seeds):
        x, start = _tensors(torch, place, features, centres)
        options = {"num_init": 1, "max_iter": rounds, "tol": 0.0, "verbose": False}

        def run():
            model = library.KMeans(
                n_clusters=start.shape[1], distance=library.CosineSimilarity, **options
            )
            return model(x, centers=start[:, None]).centers.cpu()

        return run

    return Peer(prepare, "builds positions x clusters x channels")


def fast_pytorch_kmeans(device: str) -> Peer:
    """fast-pytorch-kmeans, one picture after the other."""
    import torch
    from fast_pytorch_kmeans import KMeans

    place = _torch_device(torch, device)

    def prepare(features, centres, rounds, seeds):
        x, start = _tensors(torch, place, features, centres)

        def run():
            found = []
            for picture, c in zip(x, start, strict=True):
                model = KMeans(len(c), max_iter=rounds, tol=0, mode="cosine")
                model.fit_predict(picture, centroids=c.clone())
                found.append(model.centroids.cpu())
            return found

        return run

    return Peer(prepare, "its assignment is of the centres before the last")


def kmeans_pytorch(device: str) -> Peer:
    """kmeans-pytorch, picture by picture; it draws its centres from NumPy's global state."""
    import torch
    from kmeans_pytorch import kmeans as library

    place = _torch_device(torch, device)

    def prepare(features, centres, rounds, seeds):
        x, start = _tensors(torch, place, features, centres)

        def run():
            found = []
            for picture, seed in zip(x, seeds, strict=True):
                np.random.seed(seed)
                with (
                    contextlib.redirect_stdout(io.StringIO()),
                    contextlib.redirect_stderr(io.StringIO()),
                ):
                    _, c = library(picture, start.shape[1], distance="cosine", device=place)
                found.append(c)
            return found

        return run

    return Peer(prepare, "makes as many rounds as its tolerance asks for; same initial centres")


def flash_kmeans(device: str) -> Peer:
    """flash-kmeans: Triton kernels."""
    if device == "cpu":
        raise ImportError("needs a GPU")
    import torch
    from flash_kmeans import batch_kmeans_Cosine

    place = _torch_device(torch, device)

    def prepare(features, centres, rounds, seeds):
        x, start = _tensors(torch, place, features, centres)

        def run():
            # A negative tolerance: the movement is never below it.
            return batch_kmeans_Cosine(
                x, start.shape[1], max_iters=rounds, tol=-1.0, init_centroids=start
            )[1].cpu()

        return run

    return Peer(prepare, "its assignment is of the centres before the last")


PEERS = {
    "scikit-learn": scikit_learn,
    "faiss": faiss_spherical,
    "pytorch": pytorch,
    "torch-kmeans": torch_kmeans,
    "fast-pytorch-kmeans": fast_pytorch_kmeans,
    "kmeans-pytorch": kmeans_pytorch,
    "flash-kmeans": flash_kmeans,
}


def _only_cpu(device: str) -> None:
    if device != "cpu":
        raise ImportError("runs on a CPU only")


def _torch_device(torch, device: str):
    if device == "gpu" and not torch.cuda.is_available():
        raise ImportError("this torch finds no GPU")
    return torch.device("cuda" if device == "gpu" else "cpu")


def _tensors(torch, place, *arrays):
    tensors = [torch.tensor(array).to(place) for array in arrays]
    if place.type == "cuda":
        torch.cuda.synchronize()
    return tensors
