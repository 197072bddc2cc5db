"""Regions of an image whose features are alike; margins are smoothed within them."""

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage

ALIKE = 0.4
"""Regions are joined while the mean cosine distance of their positions is below this."""

MOST_ROWS = 40
"""And columns of a feature map whose positions are clustered one by one."""

Regions = Int[np.ndarray, "rows columns"]
"""The number of each position's region, from 0 on."""


def regions(features: Float[np.ndarray, "rows columns channels"], alike: float = ALIKE) -> Regions:
    """Returns the regions of an image by average-linkage agglomerative clustering.

    Of a feature map of more than `MOST_ROWS` rows or columns, blocks of positions are clustered,
    as its time grows with the square of their number; then each position joins the region to whose
    positions its mean cosine is the largest.

    Args:
      features: of each position.
      alike: see `ALIKE`.
    """
    unit = np.asarray(features, np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=-1, keepdims=True), 1e-6)
    factor = -(-max(unit.shape[:2]) // MOST_ROWS)
    if factor == 1:
        return _linked(unit, alike)
    coarse = _linked(_block_sums(unit, factor), alike)
    rough = coarse.repeat(factor, 0).repeat(factor, 1)[: len(unit), : unit.shape[1]].ravel()
    flat = unit.reshape(-1, unit.shape[-1])
    members = (rough == np.arange(rough.max() + 1)[:, None]).astype(np.float32)
    means = members @ flat / members.sum(1, keepdims=True)
    chosen = (flat @ means.T).argmax(1)
    return np.unique(chosen, return_inverse=True)[1].reshape(unit.shape[:2])


def _linked(unit: Float[np.ndarray, "rows columns channels"], alike: float) -> Regions:
    flat = unit.reshape(-1, unit.shape[-1])
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    tree = linkage(_cosine_distances(flat), "average")
    return (fcluster(tree, alike, "distance") - 1).reshape(unit.shape[:2])


def _block_sums(
    values: Float[np.ndarray, "rows columns channels"], side: int
) -> Float[np.ndarray, "blocks blocks channels"]:
    """Returns the sums of square blocks, which may be cut off at the lower and right edge."""
    rows, columns = (range(0, n, side) for n in values.shape[:2])
    return np.add.reduceat(np.add.reduceat(values, rows, 0), columns, 1)


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
