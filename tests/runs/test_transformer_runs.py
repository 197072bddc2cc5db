"""A small vision transformer through the whole harness: stride 14, no last block, no BatchNorm."""

import json

import numpy as np
import pytest
from jax.export import deserialize
from safetensors.numpy import load_file, save_file

import apanet_jax
from apanet_jax.data.sources.synthetic import draw_image
from apanet_jax.inference.heads.exported_head import CARD, PROGRAM, export
from apanet_jax.inference.heads.saved_head import WEIGHTS, open_head, recorded_weights
from apanet_jax.models import backbones, dino
from apanet_jax.models.vit import ViT
from apanet_jax.runs import sweep
from apanet_jax.runs.run import make_run
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.load import fingerprint, load_backbone
from configs import folder
from tests.evaluation.test_embed_once import both, head_of
from tests.weights.test_vit_names import WIDTH, small, tensors

NAME = "dinov2_vits14"
TINY = small(NAME)
SIZE = 70
OPTIONS = (
    f"backbone={NAME},min_area=50,image_size={SIZE},longer_side={SIZE},channels=8,steps=2,"
    "training.batch_size=8,episodes=4,evaluation.batch_size=8,shots=1+2,pictures=0,bundled=0,every=1,"
    "validation_episodes=2,checkpoint_every=1,workers=0"
)
RUNS = {
    "conv on kept features, 8 devices": "keep=True,devices=8",
    "fem on images, in bfloat16": (
        "keep=False,devices=1,backbone.dtype=bfloat16,comparison=fem,pyramid_bins=5+0.5,priors=high"
    ),
}


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """A small vision transformer in the place of a large one."""
    row = backbones.spec(NAME)._replace(
        build=lambda dtype: ViT(TINY, (1, 1, 2), dtype=dtype),
        block4_channels=WIDTH,
        block3_channels=WIDTH,
        high_channels=WIDTH,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, NAME, row)
        patch.setitem(dino.VARIANTS, NAME, TINY)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of the small network's weights, named as on the hub."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(tensors("hf"), path)
    return path


@pytest.fixture(scope="module", params=RUNS)
def trained(request, tmp_path_factory, prepared, weights):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    config = folder.get_config(
        f"{OPTIONS},records={prepared},weights={weights},{RUNS[request.param]}"
    )
    return workdir, sweep.run_all(config, workdir, "train_and_evaluate")["run"]


@pytest.mark.slow
def test_a_head_is_trained_scored_exported_and_used(trained, weights, tmp_path):
    workdir, rows = trained
    origin = fingerprint(load_backbone(NAME, weights))
    assert {row["shot"] for row in rows} == {1, 2}
    assert all(row["weights_fingerprint"] == origin and 0 <= row["miou"] <= 100 for row in rows)
    folder = export(workdir, tmp_path / "out", program=True, shots=1)
    assert recorded_weights(folder).fingerprint == origin
    card = (folder / CARD).read_text()
    assert origin in card and NAME in card and "## Program" in card

    pairs = [draw_image(np.random.default_rng(n), [2], 96) for n in range(2)]
    images, masks = zip(*((image, label == 3) for image, label in pairs), strict=True)
    config = json.loads((folder / "config.json").read_text())
    config["backbone"]["weights"] = str(weights)
    (folder / "config.json").write_text(json.dumps(config))
    segmenter = apanet_jax.load(folder)
    (found,) = segmenter.fit(images[:1], masks[:1]).predict(images[1:])
    assert found.shape == (96, 96) and segmenter.matcher.grid.stride == 14

    read = deserialize(bytearray((folder / PROGRAM).read_bytes()))
    assert set(read.platforms) == {"cpu", "cuda", "tpu"}
    assert tuple(map(str, read.out_avals[0].shape)) == ("batch", str(SIZE), str(SIZE))

    # The same network with other numbers.
    changed = load_file(weights)
    changed["layernorm.bias"] = changed["layernorm.bias"] + 1
    save_file(changed, tmp_path / "other.safetensors")
    config["backbone"]["weights"] = str(tmp_path / "other.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"fingerprint {origin[:12]}.*other.safetensors have"):
        open_head(folder)
    assert load_file(folder / WEIGHTS)


@pytest.mark.slow
def test_embedding_each_image_once_gives_the_same_counts(prepared):
    run = make_run(
        folder.get_config(f"{OPTIONS},records={prepared},weights=random,keep=False,priors=high")
    )
    parameters = head_of(run)
    (once, classes), (each_time, expected) = both(run, parameters, 2)
    np.testing.assert_array_equal(classes, expected)
    for ours, reference in zip(once, each_time, strict=True):
        assert np.abs(ours - reference).sum() <= 4


@pytest.mark.parametrize(
    "options,says",
    [
        ("image_size=72", "multiples of 14, not 72x72: the nearest are 70x70 or 84x84"),
        ("masked_support=True,keep=False", "no last block.*masked_support=False"),
    ],
)
def test_what_a_transformer_cannot_do_is_refused_in_one_line(prepared, options, says):
    with pytest.raises(UserError, match=says) as raised:
        make_run(folder.get_config(f"{OPTIONS},weights=random,records={prepared},{options}"))
    assert "\n" not in str(raised.value)
