"""Regions of an image whose features are alike; margins are smoothed within them."""

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage

ALIKE = 0.4
"""Regions are joined while the mean cosine distance of their positions is below this."""

Regions = Int[np.ndarray, "rows columns"]
"""The number of each position's region, from 0 on."""


def regions(features: Float[np.ndarray, "rows columns channels"], alike: float = ALIKE) -> Regions:
    """Returns the regions of an image by average-linkage agglomerative clustering.

    Args:
      features: of each position.
      alike: see `ALIKE`.
    """
    flat = np.asarray(features, np.float32).reshape(-1, features.shape[-1])
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    tree = linkage(_cosine_distances(flat), "average")
    return (fcluster(tree, alike, "distance") - 1).reshape(features.shape[:2])


def _cosine_distances(
    unit: Float[np.ndarray, "positions channels"],
) -> Float[np.ndarray, " pairs"]:
    """Returns the distances of each vector to those behind it, as SciPy's `linkage` takes them."""
    cosines, count = unit @ unit.T, len(unit)
    distances, start = np.empty(count * (count - 1) // 2), 0
    # Row by row: the indices of all pairs would take several times the memory and the time.
    for index in range(count - 1):
        end = start + count - 1 - index
        np.subtract(1, cosines[index, index + 1 :], out=distances[start:end])
        start = end
    return np.maximum(distances, 0, out=distances)


def smoothed(
    margins: Float[np.ndarray, "*rules rows columns"], regions: Regions, share: float
) -> Float[np.ndarray, "*rules rows columns"]:
    """Returns margins of which a share is the mean over the position's region.

    Args:
      margins: of one or more rules.
      regions: of the same positions.
      share: between 0 (the margins as they are) and 1 (the regions' means).
    """
    flat, numbers = margins.reshape(-1, regions.size), regions.ravel()
    sums = np.stack([np.bincount(numbers, x) for x in flat])
    means = (sums / np.bincount(numbers))[:, numbers].reshape(margins.shape)
    return ((1 - share) * margins + share * means).astype(np.float32)
