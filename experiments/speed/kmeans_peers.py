"""The implementations that kmeans_benchmark.py compares: ours, and other packages.

Each function takes the device, "cpu" or "gpu", and returns a `Peer`; it raises ImportError where
the peer cannot run.
"""

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Shape(NamedTuple):
    """What is clustered: `[batch, positions, channels]`, into how many clusters."""

    batch: int
    positions: int
    channels: int
    clusters: int


class Peer(NamedTuple):
    """An implementation that is installed.

    Attributes:
      prepare: from unit vectors, centres, rounds and the seeds that drew each image's centres to
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

    def centres_of(x, start, rounds):
        model = KMeans(len(start), init=start, n_init=1, max_iter=rounds, tol=0)
        return model.fit(x).cluster_centers_

    note = "Euclidean, centres are not made unit vectors; stops when nothing moves"
    return _on_cpu(device, centres_of, note)


def faiss_spherical(device: str) -> Peer:
    """Spherical k-means of faiss, with the search that gives the assignment."""
    import faiss

    def centres_of(x, start, rounds):
        limits = {"min_points_per_centroid": 1, "max_points_per_centroid": len(x)}
        model = faiss.Kmeans(x.shape[1], len(start), niter=rounds, spherical=True, **limits)
        model.train(x, init_centroids=start)
        model.index.search(x, 1)
        return model.centroids

    return _on_cpu(device, centres_of, "splits large clusters where one is empty")


def pytorch(device: str) -> Peer:
    """A few torch calls over the whole batch: what one writes without a library."""
    import torch
    from torch.nn import functional

    def centres_of(x, start, rounds, seeds):
        c = start
        for _ in range(rounds):
            nearest = torch.argmax(x @ c.transpose(1, 2), -1)
            joined = functional.one_hot(nearest, c.shape[1]).to(x.dtype)
            c = functional.normalize(joined.transpose(1, 2) @ x, dim=-1)
        torch.argmax(x @ c.transpose(1, 2), -1)
        return c.cpu()

    return _on_torch(device, centres_of)


def torch_kmeans(device: str) -> Peer:
    """torch-kmeans: batched, any distance."""
    import torch_kmeans as library

    # It warns in each call that a cosine distance should not be inverted.
    warnings.filterwarnings("ignore", message="standard k-means should")

    def centres_of(x, start, rounds, seeds):
        model = library.KMeans(
            n_clusters=start.shape[1],
            distance=library.CosineSimilarity,
            **{"num_init": 1, "max_iter": rounds, "tol": 0.0, "verbose": False},
        )
        return model(x, centers=start[:, None]).centers.cpu()

    return _on_torch(device, centres_of, "builds positions x clusters x channels")


def fast_pytorch_kmeans(device: str) -> Peer:
    """fast-pytorch-kmeans, image by image."""
    from fast_pytorch_kmeans import KMeans

    def centres_of(x, start, rounds, seeds):
        found = []
        for image, c in zip(x, start, strict=True):
            model = KMeans(len(c), max_iter=rounds, tol=0, mode="cosine")
            model.fit_predict(image, centroids=c.clone())
            found.append(model.centroids.cpu())
        return found

    return _on_torch(device, centres_of, "its assignment is of the centres before the last")


def kmeans_pytorch(device: str) -> Peer:
    """kmeans-pytorch, image by image; it draws its centres from NumPy's global state."""
    from kmeans_pytorch import kmeans as library

    def centres_of(x, start, rounds, seeds):
        found = []
        for image, seed in zip(x, seeds, strict=True):
            np.random.seed(seed)
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                _, c = library(image, start.shape[1], distance="cosine", device=x.device)
            found.append(c)
        return found

    note = "makes as many rounds as its tolerance asks for; same initial centres"
    return _on_torch(device, centres_of, note)


def flash_kmeans(device: str) -> Peer:
    """flash-kmeans: Triton kernels."""
    if device == "cpu":
        raise ImportError("needs a GPU")
    from flash_kmeans import batch_kmeans_Cosine

    def centres_of(x, start, rounds, seeds):
        # The movement is never below a negative tolerance.
        options = {"max_iters": rounds, "tol": -1.0, "init_centroids": start}
        return batch_kmeans_Cosine(x, start.shape[1], **options)[1].cpu()

    return _on_torch(device, centres_of, "its assignment is of the centres before the last")


PEERS = {
    "scikit-learn": scikit_learn,
    "faiss": faiss_spherical,
    "pytorch": pytorch,
    "torch-kmeans": torch_kmeans,
    "fast-pytorch-kmeans": fast_pytorch_kmeans,
    "kmeans-pytorch": kmeans_pytorch,
    "flash-kmeans": flash_kmeans,
}


def _on_cpu(device: str, centres_of: Callable, note: str) -> Peer:
    """Returns a peer that clusters one image after another from NumPy arrays."""
    if device != "cpu":
        raise ImportError("runs on a CPU only")

    def prepare(features, centres, rounds, seeds):
        return lambda: [
            centres_of(x, start, rounds) for x, start in zip(features, centres, strict=True)
        ]

    return Peer(prepare, note)


def _on_torch(device: str, centres_of: Callable, note: str = "") -> Peer:
    """Returns a peer that clusters tensors which are on its device already."""
    import torch

    if device == "gpu" and not torch.cuda.is_available():
        raise ImportError("this torch finds no GPU")
    place = torch.device("cuda" if device == "gpu" else "cpu")

    def prepare(features, centres, rounds, seeds):
        x, start = (torch.tensor(array).to(place) for array in (features, centres))
        if device == "gpu":
            torch.cuda.synchronize()
        return lambda: centres_of(x, start, rounds, seeds)

    return Peer(prepare, note)
