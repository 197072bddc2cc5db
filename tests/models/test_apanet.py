"""The head against a literal PyTorch transcription of the paper's equations, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apanet_jax.models.apanet import APANet, ImageFeatures
from apanet_jax.models.prior import prior_mask
from apanet_jax.models.prototypes import grid_regions
from apanet_jax.models.reduction import Reduction
from apanet_jax.models.resize import at_size
from apanet_jax.training.losses import cross_entropy, losses
from tests.literal import (
    BATCH,
    CHANNELS,
    SHOT,
    SIZE,
    Literal,
    assert_gradients_agree,
    drawn,
    episode,
    explain_negatives,
)

DROPOUT = {"reduction_dropout": 0.5, "comparison_dropout": 0.1}
"""None at inference."""


def head(**options):
    defaults = {"reduction_dropout": 0.0, "comparison_dropout": 0.0, "channels": CHANNELS}
    return APANet(**(defaults | options))


def parameters_of(module, inputs):
    shapes = jax.eval_shape(module.init, {"params": jax.random.key(0)}, *inputs[:3])["params"]
    return drawn(shapes)


@functools.partial(jax.jit, static_argnums=0)
def run(module, parameters, inputs, label=None, seed=0):
    keys = {"cluster": jax.random.key(seed), "dropout": jax.random.key(seed + 1)}
    return module.apply({"params": parameters}, *inputs[:3], label, train=True, rngs=keys)


@functools.partial(jax.jit, static_argnums=0)
def infer(module, parameters, query, support, support_labels):
    return module.apply({"params": parameters}, query, support, support_labels)


@functools.partial(jax.jit, static_argnums=0)
def gradients_and_outputs(module, parameters, inputs):
    def total(parameters):
        outputs = run(module, parameters, inputs, inputs[3])
        return losses(outputs, inputs[3], 0.4).total, outputs

    return jax.grad(total, has_aux=True)(parameters)


def test_class_specific_branch_follows_the_equations():
    inputs = episode()
    module = head(priors=("high", "middle"))
    parameters = parameters_of(module, inputs)
    outputs = infer(module, parameters, *inputs[:3])
    assert outputs.agnostic_logits is None and outputs.clusters is None
    expected = Literal(parameters).specific(*inputs[:3], outputs.prior)
    np.testing.assert_allclose(outputs.logits, expected.detach(), atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_branches_and_all_gradients_agree_with_torch(seed):
    inputs = episode(seed)
    label = inputs[3]
    module = head(num_clusters=2)
    parameters = parameters_of(module, inputs)
    gradients, outputs = gradients_and_outputs(module, parameters, inputs)
    literal = Literal(parameters)
    agnostic = explain_negatives(literal, inputs, outputs, 2)
    assert agnostic is not None

    specific = literal.specific(*inputs[:3], outputs.prior)
    flipped = np.where(label == 255, 255, 1 - label).astype(np.uint8)
    loss = 0.6 * literal.loss(specific, label) + 0.4 * literal.loss(agnostic, flipped)
    loss.backward()
    assert_gradients_agree(gradients, literal)


def test_shots_are_averaged():
    query, support, labels, _ = episode()
    module = head(**DROPOUT)
    parameters = parameters_of(module, (query, support, labels))
    together = infer(module, parameters, query, support, labels)
    priors = [
        infer(
            module,
            parameters,
            query,
            ImageFeatures(support.middle[:, k : k + 1], support.high[:, k : k + 1]),
            labels[:, k : k + 1],
        ).prior
        for k in range(SHOT)
    ]
    np.testing.assert_allclose(together.prior, np.mean(priors, 0), atol=1e-6)


def test_negatives_never_come_from_an_empty_cluster():
    query, support, labels, label = episode()
    # All features equal: one cluster takes every position, the other stays empty.
    query = ImageFeatures(np.ones_like(query.middle), np.ones_like(query.high))
    module = head(num_clusters=2)
    parameters = parameters_of(module, (query, support, labels))
    runs = [run(module, parameters, (query, support, labels), label, seed) for seed in range(8)]
    for outputs in runs:
        assert len(np.unique(outputs.clusters)) == 1
        # With the one non-empty cluster as everybody's prototype the choice changes nothing.
        np.testing.assert_allclose(outputs.agnostic_logits, runs[0].agnostic_logits, atol=1e-6)
        assert (np.asarray(outputs.agnostic_valid) == 1).all()


def test_a_query_without_background_teaches_the_branch_nothing():
    query, support, labels, label = episode()
    label = label.copy()
    label[0] = 1
    module = head(num_clusters=2)
    parameters = parameters_of(module, (query, support, labels))
    outputs = run(module, parameters, (query, support, labels), label)
    assert outputs.agnostic_valid.tolist() == [0.0, 1.0]
    assert np.isfinite(losses(outputs, label, 0.5).total)


@pytest.mark.parametrize("choice", ["complement", "same", "zeros"])
def test_the_agnostic_prior_is_what_was_chosen(choice):
    inputs = episode()
    label = inputs[3]
    module = head(agnostic_prior=choice, num_clusters=2)
    parameters = parameters_of(module, inputs)
    outputs = run(module, parameters, inputs, label)
    prior = np.asarray(outputs.prior)
    stands = {"complement": 1 - prior, "same": prior, "zeros": 0 * prior}[choice]
    complement = outputs._replace(prior=1 - stands)
    assert explain_negatives(Literal(parameters), inputs, complement, 2) is not None


def test_a_shared_reduction_has_no_second_one():
    inputs = episode()
    assert "reduce_query" not in parameters_of(head(shared_reduction=True), inputs)
    assert "reduce_query" in parameters_of(head(), inputs)


def test_inference_needs_no_query_label_and_no_random_numbers():
    inputs = episode()
    module = head(**DROPOUT)
    parameters = parameters_of(module, inputs)
    first = infer(module, parameters, *inputs[:3]).logits
    np.testing.assert_array_equal(first, infer(module, parameters, *inputs[:3]).logits)


def test_a_head_that_looks_at_middle_features_alone_needs_no_others():
    inputs = episode()
    module = head(priors=("middle",), cluster_features="middle")
    assert not module.needs_high and head().needs_high
    assert head(priors=()).needs_high and head(cluster_features="middle").needs_high
    parameters = parameters_of(module, inputs)
    alone = (*(f._replace(high=None) for f in inputs[:2]), *inputs[2:])
    for ours, theirs in zip(
        run(module, parameters, alone, inputs[3]),
        run(module, parameters, inputs, inputs[3]),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_block_s_prior_mask_looks_at_that_block_alone():
    query, support, labels, _ = episode()
    alone = (query._replace(high=None), support._replace(high=None), labels)
    module = head(priors=("block3", "block4", "middle"), block4_channels=2, num_clusters=0)
    assert not module.clone(cluster_features="middle").needs_high
    outputs = infer(module, parameters_of(module, alone), *alone)
    foreground = at_size(labels == 1, (SIZE, SIZE))
    for channel, block in enumerate((slice(2, None), slice(2), slice(None))):
        expected = prior_mask(query.middle[..., block], support.middle[..., block], foreground)
        np.testing.assert_allclose(outputs.prior[..., channel], expected, atol=1e-6)


def test_the_scale_of_the_prior_is_the_scale_of_its_weights():
    inputs = episode()
    module = head(num_clusters=2)
    parameters = parameters_of(module, inputs)
    kernel = np.array(parameters["comparison"]["kernel"])
    kernel[:, :, 2 * CHANNELS :] *= 3
    heavier = parameters | {"comparison": parameters["comparison"] | {"kernel": kernel}}
    expected = run(module, heavier, inputs, inputs[3])
    scaled = run(module.clone(prior_scale=3.0), parameters, inputs, inputs[3])
    np.testing.assert_allclose(scaled.logits, expected.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        scaled.agnostic_logits, expected.agnostic_logits, rtol=1e-4, atol=1e-5
    )


def cells_of(module):
    """Returns the numbered cells `grid_regions` gives to a map of SIZE x SIZE, by hand."""
    side = int(module.num_clusters**0.5)
    place = [n * side // SIZE for n in range(SIZE)]
    return np.array([[y * side + x for x in place] for y in place])


def test_a_grid_takes_the_place_of_the_clusters():
    inputs = episode()
    module = head(regions="grid", num_clusters=4)
    parameters = parameters_of(module, inputs)
    outputs = run(module, parameters, inputs, inputs[3])
    np.testing.assert_array_equal(outputs.clusters, np.stack([cells_of(module)] * BATCH))
    assert explain_negatives(Literal(parameters), inputs, outputs, 4) is not None


def test_regions_of_a_pyramid_by_hand():
    np.testing.assert_array_equal(
        grid_regions(5, 4, 2),
        [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]],
    )
    np.testing.assert_array_equal(grid_regions(3, 3, 3), np.arange(9).reshape(3, 3))


@pytest.mark.parametrize(("size", "side"), [((4, 4), 2), ((5, 7), 2), ((9, 9), 4)])
def test_every_cell_of_a_grid_is_a_rectangle_of_nearly_the_same_sides(size, side):
    cells = np.asarray(grid_regions(*size, side))
    assert set(cells.ravel()) == set(range(side * side))
    for cell in range(side * side):
        rows, columns = np.nonzero(cells == cell)
        extent = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert np.prod(extent) == len(rows)
        for length, whole in zip(extent, size, strict=True):
            assert whole // side <= length <= -(-whole // side)


def test_the_supports_background_is_a_prototype_of_its_own():
    query, support, labels, label = episode(shot=2)
    module = head(regions="support", num_clusters=1)
    parameters = parameters_of(module, (query, support, labels))
    outputs = run(module, parameters, (query, support, labels), label)
    # The branch compares with the supports' background as the other one does with their foreground.
    flipped = np.where(labels == 255, 255, 1 - labels).astype(np.uint8)
    expected = Literal(parameters).specific(query, support, flipped, 1 - outputs.prior)
    np.testing.assert_allclose(outputs.agnostic_logits, expected.detach(), atol=1e-5)


def test_several_negatives_are_different_clusters_each_in_a_comparison_of_its_own():
    inputs = episode()
    several = head(num_clusters=3, negatives=3)
    parameters = parameters_of(several, inputs)
    outputs = run(several, parameters, inputs, inputs[3])
    rounds = np.split(np.asarray(outputs.agnostic_logits), 3)
    literal, clusters = Literal(parameters), np.asarray(outputs.clusters)
    expected = [
        literal.agnostic(inputs[0], inputs[3], clusters, [chosen] * BATCH, outputs.prior)
        .detach()
        .numpy()
        for chosen in range(3)
    ]
    behind = np.asarray(at_size(inputs[3] == 0, (SIZE, SIZE))) > 0
    for picture in range(BATCH):
        found = {
            chosen
            for logits in rounds
            for chosen in range(3)
            if np.abs(logits[picture] - expected[chosen][picture]).max() < 1e-4
        }
        assert found == set(clusters[picture][behind[picture]])
    target = np.where(inputs[3] == 255, 255, 1 - inputs[3]).astype(np.uint8)
    each = [cross_entropy(logits, target) for logits in rounds]
    np.testing.assert_allclose(losses(outputs, inputs[3], 1.0).total, np.mean(each), rtol=1e-5)


def test_more_negatives_than_clusters_repeat_them():
    query, support, labels, label = episode()
    query = ImageFeatures(np.ones_like(query.middle), np.ones_like(query.high))
    module = head(num_clusters=3, negatives=3)
    parameters = parameters_of(module, (query, support, labels))
    outputs = run(module, parameters, (query, support, labels), label)
    first, *others = np.split(np.asarray(outputs.agnostic_logits), 3)
    for other in others:
        np.testing.assert_allclose(first, other, atol=1e-6)


def test_background_like_the_supports_is_left_out_of_both_losses():
    query, support, labels, label = episode()
    # Two kinds of position: those of the left half are what the supports' foreground is.
    alike, other = np.zeros_like(query.high[0, 0, 0]), np.zeros_like(query.high[0, 0, 0])
    alike[0], other[1] = 1.0, 1.0
    high = np.broadcast_to(other, query.high.shape).copy()
    high[:, :, : SIZE // 2] = alike
    query = query._replace(high=high)
    support = support._replace(high=np.broadcast_to(alike, support.high.shape))
    label = np.zeros_like(label)
    inputs = (query, support, labels)
    module = head(num_clusters=2, resemblance_limit=0.9)
    parameters = parameters_of(module, inputs)
    outputs = run(module, parameters, inputs, label)
    left_out = np.asarray(outputs.resembling)
    assert left_out[:, :, : SIZE // 2].all() and not left_out[:, :, SIZE // 2 :].any()
    resized = np.asarray(at_size(left_out, label.shape[1:]))
    masked = np.where(resized >= 0.5, 255, label).astype(np.uint8)
    np.testing.assert_allclose(
        losses(outputs, label, 0.0).total, cross_entropy(outputs.logits, masked), rtol=1e-6
    )
    unlimited = run(head(num_clusters=2), parameters, inputs, label)
    assert unlimited.resembling is None
    assert losses(unlimited, label, 0.0).total != losses(outputs, label, 0.0).total


@pytest.mark.parametrize("unit_features", [False, True])
def test_bfloat16_features_are_reduced_as_they_are_with_float32_sums(unit_features):
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(1, 2, 2, 512)), jnp.bfloat16)
    reduction = Reduction(3, bias=True, unit_features=unit_features)
    variables = reduction.init(jax.random.key(0), features)
    found = reduction.apply(variables, features)
    kernel, bias = (variables["params"][name] for name in ("kernel", "bias"))
    exact = np.asarray(features).astype(np.float64)
    if unit_features:
        exact /= np.sqrt(np.square(exact).mean(-1, keepdims=True) + 1e-6)
        exact = np.asarray(jnp.asarray(exact, jnp.bfloat16)).astype(np.float64)
    factors = np.asarray(kernel.astype(jnp.bfloat16)).astype(np.float64)
    expected = np.maximum(exact @ factors + np.asarray(bias), 0)
    assert found.dtype == jnp.float32
    # Sums in bfloat16 would be off by 1e-2; a scaled feature may round the other way.
    np.testing.assert_allclose(found, expected, atol=3e-3 if unit_features else 1e-5)
    program = str(jax.make_jaxpr(lambda x: reduction.apply(variables, x))(features))
    assert "f32[1,2,2,512]" not in program or unit_features


def test_half_of_the_logits_is_averaged_in_the_querys_clusters():
    query, support, labels, _ = episode()
    rng = np.random.default_rng(3)
    kind = rng.integers(0, 3, query.middle.shape[:3])
    channels = query.middle.shape[-1]
    apart = 4 * np.eye(channels)[kind] + 0.05 * rng.standard_normal(query.middle.shape)
    query = ImageFeatures(apart.astype(np.float32), query.high)
    # Block 4 is all of the middle features here.
    plain, smooth = (head(block4_channels=channels, query_clusters=n) for n in (0, 3))
    parameters = parameters_of(plain, (query, support, labels))
    logits = np.asarray(infer(plain, parameters, query, support, labels).logits)
    expected = logits.copy()
    for image in range(len(logits)):
        for number in range(3):
            inside = kind[image] == number
            expected[image][inside] += logits[image][inside].mean(0)
    found = infer(smooth, parameters, query, support, labels).logits
    np.testing.assert_allclose(found, expected / 2, atol=1e-5)


def test_training_does_not_average_logits_in_clusters():
    inputs = episode()
    parameters = parameters_of(head(), inputs)
    plain, smooth = (run(head(query_clusters=n), parameters, inputs, inputs[3]) for n in (0, 3))
    np.testing.assert_array_equal(plain.logits, smooth.logits)


FEM = {"comparison": "fem", "pyramid_bins": (5, 0.5)}


@pytest.mark.parametrize("options", [{}, pytest.param(FEM, marks=pytest.mark.slow)])
def test_a_comparison_in_bfloat16_multiplies_bfloat16_and_gives_float32(options):
    inputs = episode()
    module = head(num_clusters=2, **options)
    half = module.clone(comparison_dtype="bfloat16")
    parameters = parameters_of(module, inputs)
    whole, rounded = (infer(x, parameters, *inputs[:3]).logits for x in (module, half))
    assert rounded.dtype == jnp.float32 and not np.array_equal(rounded, whole)
    # 8 bits of each factor, in sums of few terms.
    np.testing.assert_allclose(rounded, whole, atol=0.05 * np.abs(whole).max())
    trained = functools.partial(gradients_and_outputs, half)
    gradients, outputs = jax.eval_shape(trained, parameters, inputs)
    floats = (gradients, outputs.logits, outputs.agnostic_logits, outputs.levels)
    assert {x.dtype for x in jax.tree.leaves(floats)} == {jnp.dtype("float32")}
    program = jax.make_jaxpr(functools.partial(infer, half))(parameters, *inputs[:3])
    convolved = {str(x.aval.dtype) for x in _operands(program.jaxpr, "conv_general_dilated")}
    assert convolved == {"bfloat16"}


def _operands(program, name):
    """Yields what the operations of a name are given, in a program and in those inside it."""
    for equation in program.eqns:
        if equation.primitive.name == name:
            yield from equation.invars
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from _operands(inner, name)
