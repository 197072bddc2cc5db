"""Whitening of features, against scikit-learn's covariance, and the mean of object features."""

import cv2
import numpy as np
import pytest
from sklearn.covariance import empirical_covariance
from sklearn.preprocessing import normalize

from apanet_jax.inference.matching.object_features import BACKBONE, ObjectFeatures, load_top
from apanet_jax.weights.features import load_backbone
from experiments.own_pictures.whitening import main, whitening
from tests.trees import folder_tree

RNG = np.random.default_rng(0)
IMAGES = [RNG.normal(size=(50, 4)) @ RNG.normal(size=(4, 4)) + RNG.normal(size=4) for _ in range(6)]


@pytest.mark.parametrize("within", [True, False])
def test_whitened_features_vary_alike_in_all_directions(within):
    found = whitening(IMAGES, shrinkage=0.0, within=within)
    everything = np.concatenate(IMAGES)
    means = [x.mean(0) if within else everything.mean(0) for x in IMAGES]
    rest = np.concatenate([x - mean for x, mean in zip(IMAGES, means, strict=True)])
    whitened = empirical_covariance(rest @ found.matrix, assume_centered=True)
    np.testing.assert_allclose(whitened, np.eye(4), atol=1e-8)
    np.testing.assert_allclose(found.mean, everything.mean(0))


def test_shrinkage_is_a_share_of_the_mean_variance():
    found = whitening(IMAGES, shrinkage=0.5, within=False)
    covariance = empirical_covariance(np.concatenate(IMAGES))
    shrunk = covariance + 0.5 * np.trace(covariance) / 4 * np.eye(4)
    np.testing.assert_allclose(found.matrix @ shrunk @ found.matrix, np.eye(4), atol=1e-8)


def test_the_mean_is_of_the_positions_on_the_images_each_image_alike(tmp_path, capsys):
    folders = [folder_tree(tmp_path / name, train=2, val=1) for name in ("one", "two")]
    output = tmp_path / "mean.npz"
    with pytest.raises(SystemExit, match="0"):
        main([*(f"--source={x}" for x in folders), f"--output={output}"])
    backbone, top, means = load_backbone(BACKBONE), ObjectFeatures(load_top(), np.zeros(1)), []
    for folder in folders:
        for name in (folder / "ImageSets/Segmentation/train.txt").read_text().split():
            image = cv2.imread(str(folder / f"JPEGImages/{name}.jpg"))[..., ::-1]
            # 64 x 80 pixels become 304 x 384 of 385, 38 x 48 of 49 positions: 11 x 13 of 13.
            square = np.zeros((385, 385, 3), np.uint8)
            square[:304, :384] = cv2.resize(image, (384, 304), interpolation=cv2.INTER_LINEAR)
            (block4,) = backbone.features(square[None], (4,))
            unit = normalize(np.asarray(top.top(block4))[0, :11, :13].reshape(-1, 1280))
            means.append(unit.mean(0))
    np.testing.assert_allclose(np.load(output)["mean"], np.mean(means, 0), atol=2e-3)
    with pytest.raises(SystemExit, match="2|1"):
        main([f"--output={output}"])
    assert "either --features, for a whitening, or --source, for a mean" in capsys.readouterr().err
