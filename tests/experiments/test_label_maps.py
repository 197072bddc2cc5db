"""Label maps of several classes: what is counted, beside scikit-learn."""

import numpy as np
from sklearn.metrics import confusion_matrix, jaccard_score

from experiments.own_pictures.label_maps import confusion, table


def test_pixels_are_counted_and_summed_over_the_images():
    rng = np.random.default_rng(0)
    truths, called = rng.integers(0, 3, (2, 2, 400))
    counts = [confusion(*pair, 3) for pair in zip(truths, called, strict=True)]
    for found, pair in zip(counts, zip(truths, called, strict=True), strict=True):
        np.testing.assert_array_equal(found, confusion_matrix(*pair, labels=range(3)))
    # The first image alone shows class 2.
    counts[1][2] = 0
    queries = [
        {"pixels": x.tolist(), "found": found}
        for x, found in zip(counts, ([True, False], [True, True]), strict=True)
    ]
    line = table([{"method": "small", "classes": ["a", "b"], "queries": queries}]).splitlines()[-1]
    numbers = [float(x) for x in line.strip("| ").split("|")[1:]]
    kept = np.concatenate([np.ones(400, bool), truths[1] != 2])
    flat = truths.ravel()[kept], called.ravel()[kept]
    ious = 100 * jaccard_score(*flat, labels=[1, 2], average=None)
    right = flat[0] == flat[1]
    expected = [*ious, ious.mean(), 100 * right.mean(), 100 * right[flat[0] > 0].mean()]
    # Class 1 is found in both images, where it is; class 2 is missed in one and wrong in the other.
    np.testing.assert_allclose(numbers, [*expected, 50.0, 100.0], atol=0.051)
