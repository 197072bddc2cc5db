"""A trained head, saved and used elsewhere."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from safetensors import safe_open
from safetensors.numpy import save_file

from apanet_jax.config.saved import json_settings
from apanet_jax.config.settings import typed
from apanet_jax.export import main
from apanet_jax.inference.heads.exported_head import export
from apanet_jax.inference.heads.model_card import model_card
from apanet_jax.inference.heads.saved_head import BackboneWeights, open_head, recorded_weights
from apanet_jax.models.apanet import APANet
from apanet_jax.runs import sweep
from apanet_jax.runtime.atomic_files import json_bytes
from apanet_jax.runtime.errors import UserError
from apanet_jax.training.checkpoints import Checkpoints, abstract_state
from apanet_jax.weights import pfenet
from apanet_jax.weights.head import head_parameters, head_shapes, head_table, head_tensors
from apanet_jax.weights.load import fingerprint, load_backbone
from apanet_jax.weights.mapping import convert
from apanet_jax.weights.network import make_network
from configs import common, folder, saved
from tests import reference_cases
from tests.literal import CHANNELS, episode
from tests.small_backbone import OPTIONS

TINY = (
    "min_area=50,image_size=65,longer_side=65,channels=8,steps=2,training.batch_size=2,"
    "episodes=4,evaluation.batch_size=2,shots=1,devices=1,pictures=0,every=1,validation_episodes=2,"
    "checkpoint_every=1"
)


def saved_run(workdir):
    """Makes the workdir of a run without training: parameters that were drawn, and a result."""
    config = folder.get_config(f"{TINY},dataset=mine,num_clusters=0")
    settings = typed(config)
    head = make_network(settings.backbone, settings.model).head
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype),
        abstract_state(head, config.backbone.name),
    )._replace(step=jnp.int32(7))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(state, {"position": 0}, miou=12.0)
    (workdir / "config.json").write_bytes(json_bytes(json_settings(settings)))
    row = {"checkpoint": "best", "fold": 0, "shot": 1, "miou": 12.34, "fb_iou": 50, "episodes": 4}
    row["weights_fingerprint"] = fingerprint(load_backbone(config.backbone.name, "pip"))
    (workdir / "results.json").write_bytes(json_bytes([row]))
    return row, state.parameters


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("saved") / "run"
    workdir.mkdir()
    return workdir, *saved_run(workdir)


@pytest.fixture(scope="module", params=["conv", "fem"])
def trained(prepared, small_backbone, tmp_path_factory, request):
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    bins = ",pyramid_bins=4+0.5" if request.param == "fem" else ""
    config = folder.get_config(
        f"{OPTIONS},records={prepared},comparison={request.param}{bins},episodes=4,shots=1,"
        "devices=1,every=2,validation_episodes=2"
    )
    return workdir, sweep.run_all(config, workdir, "train_and_evaluate")["run"]


def test_an_exported_head_is_the_run_s(run, tmp_path):
    workdir, row, parameters = run
    with pytest.raises(SystemExit, match="0"):
        main([f"--workdir={workdir}", f"--output={tmp_path}"])
    opened = open_head(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, opened.parameters, parameters)
    assert opened.settings.dataset == "mine" and opened.checkpoint is None
    assert opened.matcher().grid.size == opened.settings.image_size
    weights = recorded_weights(tmp_path)
    assert weights == BackboneWeights(row["weights_fingerprint"], "pip")
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert (file.metadata()["checkpoint"], file.metadata()["step"]) == ("best", "7")


def test_a_run_on_other_weights_is_not_exported(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    row = run[1] | {"weights_fingerprint": "0" * 64}
    (workdir / "results.json").write_bytes(json_bytes([row]))
    with pytest.raises(UserError, match="fingerprint 000000000000"):
        export(workdir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_exported_head_scores_what_the_run_scored(trained, prepared, tmp_path):
    workdir, rows = trained
    arguments = [f"--workdir={workdir}", f"--output={tmp_path}", "--checkpoint=last"]
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    config = saved.get_config(
        f"{tmp_path / 'config.json'},checkpoint={tmp_path / 'model.safetensors'},records={prepared}"
    )
    (row,) = sweep.run_all(config, tmp_path / "elsewhere", "evaluate")["elsewhere"]
    (last,) = [r for r in rows if r["checkpoint"] == "last"]
    path = str(tmp_path / "model.safetensors")
    assert row == last | {"checkpoint": "given", "checkpoint_file": path, "step": None}
    with pytest.raises(UserError, match="--mode=evaluate"):
        sweep.run_all(config, tmp_path / "elsewhere", "train_and_evaluate")


def test_the_card_is_read_by_people_and_hubs(run, tmp_path):
    workdir, row, _ = run
    export(workdir, tmp_path)
    card = (tmp_path / "README.md").read_text()
    _, header, text = card.split("---\n", 2)
    (entry,) = yaml.safe_load(header)["model-index"]
    assert entry["results"][0]["metrics"][0]["value"] == row["miou"]
    assert row["weights_fingerprint"] in text
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for name, tensor in tensors.items():
        assert f"| `{name}` | {list(tensor.shape)} |" in text
    assert "chosen on episodes of these very classes" in text
    settings = (tmp_path / "config.json").read_text()
    assert json.loads(settings)["fold"] == 0 and str(workdir) not in settings


def test_what_cannot_be_exported_is_explained(run, tmp_path):
    workdir = run[0]
    with pytest.raises(UserError, match=r"is no run, config.json is missing; it holds .*run"):
        export(workdir.parent, tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="cannot be read"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "config.json").write_text('{"seed": 0, "features": {"kept": false}, "model": {}}')
    with pytest.raises(UserError, match="no field 'features.kept'"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export(workdir, tmp_path / "file")


def test_the_names_of_fem_are_pfenet_s():
    head = pfenet.head()
    shapes = head_shapes(head, "resnet50")
    zeros = convert(_zeros_of("resnet50"), head_table(head), shapes)
    found = {name: list(x.shape) for name, x in head_tensors(zeros, head).items()}
    assert found == {name: list(x.shape) for name, x in _zeros_of("resnet50").items()}


def test_the_card_s_pytorch_lines_compute_the_head_s_logits(tmp_path, monkeypatch):
    head = APANet(channels=CHANNELS)
    query, support, labels, _ = episode(3)
    parameters = jax.jit(head.init)(jax.random.key(0), query, support, labels)["params"]

    @jax.jit
    def apply(parameters):
        variables = {"params": parameters}
        return head.apply(variables, query, support, labels, mutable=["intermediates"])

    outputs, state = apply(parameters)
    tensors = head_tensors(parameters, head)
    save_file(tensors, tmp_path / "model.safetensors")
    card = model_card(common.get_config(), tensors, [], "last", 2, BackboneWeights("0" * 64, "pip"))
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    first = {
        "query": query.middle,
        "prototype": state["intermediates"]["prototypes"][0][:, None],
        "prior": outputs.prior,
    }
    names = {name: torch.tensor(np.asarray(x)).permute(0, 3, 1, 2) for name, x in first.items()}
    names["torch"] = torch
    exec(lines, names)
    np.testing.assert_allclose(names["logits"].permute(0, 2, 3, 1), outputs.logits, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_what_comes_back_is_what_went_out(shared):
    head = APANet(channels=6, priors=("high", "middle"), shared_reduction=shared)
    rng = np.random.default_rng(0)
    shapes = head_shapes(head, "efficientnet_lite0")
    parameters = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), shapes)
    tensors = head_tensors(parameters, head)
    assert ("down_query.0.weight" in tensors) != shared
    back = head_parameters(tensors, head, "efficientnet_lite0")
    jax.tree.map(np.testing.assert_array_equal, back, parameters)


def test_a_head_of_other_settings_is_refused():
    head = APANet(channels=6)
    shapes = head_shapes(head, "vgg16")
    tensors = head_tensors(jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes), head)
    with pytest.raises(UserError, match="compare.0.weight .*model.channels"):
        head_parameters(tensors, APANet(channels=7), "vgg16")
    with pytest.raises(UserError, match="missing .*init_merge"):
        head_parameters(tensors, APANet(channels=6, comparison="fem"), "vgg16")


@pytest.mark.parametrize("setting", ["query_clusters", "foreground_prototypes"])
def test_a_heads_shapes_do_not_depend_on_how_much_is_clustered(setting):
    plain, clustered = APANet(channels=4), APANet(channels=4, **{setting: 32})
    assert head_shapes(clustered, "vgg16") == head_shapes(plain, "vgg16")


def _zeros_of(backbone):
    return {
        name: np.zeros(shape, np.float32)
        for name, shape in reference_cases.shapes(backbone).items()
        if not name.startswith("layer")
    }
