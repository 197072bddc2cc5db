"""Feature enrichment against a PyTorch transcription of PFENet's figures, gradients included."""

import jax
import numpy as np
import torch
from flax.traverse_util import flatten_dict
from torch.nn.functional import adaptive_avg_pool2d, conv2d, interpolate

from apanet_jax.config.settings import typed, with_options
from apanet_jax.models.apanet import APANet
from apanet_jax.models.feature_enrichment import level_size
from apanet_jax.training.losses import losses
from apanet_jax.weights import pfenet
from apanet_jax.weights.network import make_network
from configs import common
from tests.literal import (
    CHANNELS,
    SIZE,
    Literal,
    assert_gradients_agree,
    drawn,
    episode,
    explain_negatives,
)

BINS = (5, 0.5)
SIDES = (5, 2)


def head(**options):
    defaults = {
        "channels": CHANNELS,
        "comparison": "fem",
        "pyramid_bins": BINS,
        "reduction_bias": False,
        "reduction_dropout": 0.0,
        "comparison_dropout": 0.0,
    }
    return APANet(**(defaults | options))


def parameters_of(module, inputs):
    shapes = jax.eval_shape(module.init, {"params": jax.random.key(0)}, *inputs[:3])["params"]
    return drawn(shapes)


class LiteralEnrichment(Literal):
    """Expands the prototype to a map, which is pooled and concatenated at every level."""

    def convolve(self, name, x):
        kernel = self.tensors[f"comparison/{name}/kernel"]
        bias = self.tensors.get(f"comparison/{name}/bias")
        if kernel.ndim == 2:
            return conv2d(x, kernel.T[:, :, None, None], bias)
        return conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1)

    def refine(self, name, x):
        hidden = torch.relu(self.convolve(f"{name}/first", x))
        return torch.relu(self.convolve(f"{name}/second", hidden)) + x

    def classify(self, name, x):
        hidden = torch.relu(self.convolve(f"{name}/hidden", x))
        return self.convolve(f"{name}/output", hidden).permute(0, 2, 3, 1)

    def compare(self, query, expanded, prior):
        prior = torch.tensor(np.asarray(prior))
        query, expanded, prior = (x.permute(0, 3, 1, 2) for x in (query, expanded, prior))
        found, levels = [], []
        for level, side in enumerate(SIDES):
            pooled = [adaptive_avg_pool2d(x, side) for x in (query, expanded)]
            mask = bilinear(prior, side)
            x = torch.relu(self.convolve(f"merge_{level}", torch.cat([*pooled, mask], 1)))
            if level:
                both = torch.cat([x, bilinear(found[-1], side)], 1)
                x = torch.relu(self.convolve(f"alpha_{level}", both)) + x
            x = self.refine(f"beta_{level}", x)
            levels.append(self.classify(f"level_{level}", x))
            found.append(bilinear(x, SIZE))
        joined = torch.relu(self.convolve("join", torch.cat(found, 1)))
        return self.classify("output", self.refine("refine", joined)), levels

    def term(self, compared, label, weight):
        logits, levels = compared
        own = [self.loss(level, label) for level in levels]
        return self.loss(logits, label) + weight * sum(own) / len(own)


def bilinear(x, side):
    return interpolate(x, (side, side), mode="bilinear", align_corners=True)


def train(module, parameters, inputs):
    keys = {"cluster": jax.random.key(0), "dropout": jax.random.key(1)}
    return module.apply({"params": parameters}, *inputs, train=True, rngs=keys)


def test_both_branches_and_all_gradients_agree_with_torch():
    inputs = episode(1)
    label = inputs[3]
    module = head(num_clusters=2)
    parameters = parameters_of(module, inputs)

    @jax.jit
    def gradients_and_outputs(parameters):
        def total(parameters):
            outputs = train(module, parameters, inputs)
            return losses(outputs, label, 0.4, level_weight=0.7).total, outputs

        return jax.grad(total, has_aux=True)(parameters)

    gradients, outputs = gradients_and_outputs(parameters)
    literal = LiteralEnrichment(parameters)
    specific = literal.specific(*inputs[:3], outputs.prior)
    agnostic = explain_negatives(literal, inputs, outputs, 2, logits_of=lambda both: both[0])
    assert agnostic is not None
    np.testing.assert_allclose(outputs.logits, specific[0].detach(), atol=1e-5)
    ours, theirs = outputs.levels + outputs.agnostic_levels, specific[1] + agnostic[1]
    for level, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(level, expected.detach(), atol=1e-5)

    flipped = np.where(label == 255, 255, 1 - label).astype(np.uint8)
    loss = 0.6 * literal.term(specific, label, 0.7) + 0.4 * literal.term(agnostic, flipped, 0.7)
    loss.backward()
    assert_gradients_agree(gradients, literal)


def test_the_agnostic_branch_s_levels_are_a_choice():
    inputs = episode()
    module = head(num_clusters=2, agnostic_levels=False)
    parameters = parameters_of(module, inputs)
    outputs = jax.eval_shape(lambda: train(module, parameters, inputs))
    assert outputs.agnostic_logits is not None and outputs.agnostic_levels == ()
    assert [level.shape[1:3] for level in outputs.levels] == [(n, n) for n in SIDES]


def test_inference_needs_nothing_of_the_levels_own_outputs():
    inputs = episode()
    module = head()
    parameters = parameters_of(module, inputs)
    apply = jax.jit(module.apply)
    whole = apply({"params": parameters}, *inputs[:3])
    assert whole.levels == whole.agnostic_levels == () and whole.agnostic_logits is None
    comparison = {n: p for n, p in parameters["comparison"].items() if not n.startswith("level_")}
    assert len(comparison) == len(parameters["comparison"]) - len(BINS)
    fewer = apply({"params": parameters | {"comparison": comparison}}, *inputs[:3])
    np.testing.assert_array_equal(whole.logits, fewer.logits)


def test_starts_as_pytorch_does():
    module = head(channels=32, pyramid_bins=(2, 1))
    init = jax.jit(module.init)({"params": jax.random.key(0)}, *episode()[:3])
    parameters = flatten_dict(init["params"]["comparison"], sep="/")
    for path, array in parameters.items():
        kernel = parameters[path.rpartition("/")[0] + "/kernel"]
        bound = np.prod(kernel.shape[:-1]) ** -0.5
        assert np.abs(array).max() <= bound
        if array.size > 1000:
            np.testing.assert_allclose(np.std(array), bound / 3**0.5, rtol=0.1)
        assert path.endswith("kernel") or path.endswith("output/bias")


def test_level_sizes_are_cells_or_fractions():
    assert level_size(60, (15, 15)) == (60, 60)
    assert [level_size(b, (60, 30))[0] for b in (1, 0.5, 0.25, 0.125)] == [60, 30, 15, 7]
    assert level_size(0.125, (60, 4)) == (7, 1)


def test_the_config_s_baseline_is_pfenet_s_head():
    config = with_options(common.get_config(), "comparison=fem,num_clusters=0")
    settings = typed(config)
    assert make_network(settings.backbone, settings.model).head == pfenet.head()
