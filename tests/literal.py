"""A tiny episode, and a literal PyTorch transcription of the paper's equations for it."""

import itertools

import jax
import numpy as np
import torch

from apanet_jax.models.apanet import ImageFeatures

BATCH, SHOT, SIZE, LABEL, MIDDLE, HIGH, CHANNELS = 2, 2, 4, 13, 5, 6, 7


def episode(seed=0, shot=SHOT):
    rng = np.random.default_rng(seed)

    def features(channels, *leading):
        return rng.standard_normal((*leading, SIZE, SIZE, channels)).astype(np.float32)

    def label(*leading):
        coarse = rng.choice(np.array([0, 0, 1, 255], np.uint8), (*leading, SIZE, SIZE))
        return coarse.repeat(4, -1).repeat(4, -2)[..., :LABEL, :LABEL]

    return (
        ImageFeatures(features(MIDDLE, BATCH), features(HIGH, BATCH)),
        ImageFeatures(features(MIDDLE, BATCH, shot), features(HIGH, BATCH, shot)),
        label(BATCH, shot),
        label(BATCH),
    )


def drawn(shapes):
    """Returns parameters of these shapes, drawn with NumPy.

    The network's own initialisers take longer to compile than what most tests do with them.
    """
    rng = np.random.default_rng(0)

    def draw(leaf):
        bound = np.prod(leaf.shape[:-1]) ** -0.5
        return rng.uniform(-bound, bound, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, shapes)


def _resized(mask):
    mask = torch.as_tensor(np.asarray(mask, np.float32))
    flat = mask.reshape(-1, 1, LABEL, LABEL)
    small = torch.nn.functional.interpolate(flat, (SIZE, SIZE), mode="bilinear", align_corners=True)
    return small.reshape(*mask.shape[:-2], SIZE, SIZE)


class Literal:
    """The paper's equations in PyTorch, one picture and one position after the other."""

    def __init__(self, parameters):
        self.tensors = {
            "/".join(k.key for k in path): torch.tensor(np.asarray(x), requires_grad=True)
            for path, x in jax.tree_util.tree_leaves_with_path(parameters)
        }

    def reduce(self, name, features):
        t = self.tensors
        bias = t.get(f"{name}/bias", torch.zeros(()))
        return torch.relu(torch.tensor(features) @ t[f"{name}/kernel"] + bias)

    def compare(self, query, expanded, prior):
        t = self.tensors
        x = torch.cat([query, expanded, torch.tensor(np.asarray(prior))], -1).permute(0, 3, 1, 2)
        hidden = torch.nn.functional.conv2d(
            x, t["comparison/kernel"].permute(3, 2, 0, 1), t["comparison/bias"], padding=1
        )
        hidden = torch.relu(hidden).permute(0, 2, 3, 1)
        return hidden @ t["comparison/output/kernel"] + t["comparison/output/bias"]

    def specific(self, query, support, support_labels, prior):
        features = self.reduce("reduce_support", support.middle)
        mask = _resized(support_labels == 1)
        prototype = (features * mask[..., None]).sum((2, 3)) / (
            mask.sum((2, 3))[..., None] + 0.0005
        )
        expanded = prototype.mean(1)[:, None, None].expand(-1, SIZE, SIZE, -1)
        return self.compare(self.reduce("reduce_query", query.middle), expanded, prior)

    def agnostic(self, query, label, clusters, chosen, prior):
        features = self.reduce("reduce_support", query.middle)
        foreground, background = _resized(label == 1), _resized(label == 0)
        expanded = []
        for b in range(BATCH):
            prototypes = {}
            for k in np.unique(clusters[b]):
                weight = background[b] * torch.tensor(clusters[b] == k)
                pooled = (features[b] * weight[..., None]).sum((0, 1))
                prototypes[k] = pooled / (weight.sum() + 0.0005)
            rows = [
                prototypes[chosen[b]]
                if foreground[b, i, j] >= 0.5
                else prototypes[clusters[b, i, j]]
                for i in range(SIZE)
                for j in range(SIZE)
            ]
            expanded.append(torch.stack(rows).reshape(SIZE, SIZE, -1))
        query_features = self.reduce("reduce_query", query.middle)
        return self.compare(query_features, torch.stack(expanded), 1 - prior)

    def loss(self, logits, label):
        logits = torch.nn.functional.interpolate(
            logits.permute(0, 3, 1, 2), (LABEL, LABEL), mode="bilinear", align_corners=True
        )
        label = torch.tensor(label.astype(np.int64))
        return torch.nn.functional.cross_entropy(logits, label, ignore_index=255)


def explain_negatives(literal, inputs, outputs, clusters, logits_of=lambda compared: compared):
    """Returns what `literal` computes for the class-agnostic branch, or None.

    The negatives' clusters are drawn at random; exactly one draw explains the output.

    Args:
      literal: a `Literal`.
      inputs: what `episode` returned.
      outputs: of the head for them.
      clusters: their number.
      logits_of: takes the logits out of what the literal comparison returns.
    """
    assigned = np.asarray(outputs.clusters)
    for chosen in itertools.product(range(clusters), repeat=BATCH):
        try:
            agnostic = literal.agnostic(inputs[0], inputs[3], assigned, chosen, outputs.prior)
        except KeyError:  # This draw names an empty cluster.
            continue
        if np.allclose(outputs.agnostic_logits, logits_of(agnostic).detach(), atol=1e-5):
            return agnostic
    return None


def assert_gradients_agree(gradients, literal):
    """Compares gradients by every parameter with those that `loss.backward()` left."""
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        expected = literal.tensors["/".join(k.key for k in path)].grad
        np.testing.assert_allclose(gradient, expected, atol=1e-5, err_msg=str(path))
