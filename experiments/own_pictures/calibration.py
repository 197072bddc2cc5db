"""What decides whether an image shows a class, fitted to predictions: `presence.Decision`."""

import argparse
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import apanet_jax
from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.sources.synthetic import FOLDS, SyntheticSource
from apanet_jax.inference.matching.presence import PRESENT, Decision
from apanet_jax.inference.segmenter import Segmenter
from experiments.harness import Row
from experiments.own_pictures.tasks import (
    Labelled,
    Prediction,
    Task,
    embedding_once,
    predictions,
    read,
    tasks_of,
)

PIXELS = 300
"""Drawn from each image for the scale."""


def calibrate(given: argparse.Namespace) -> Row:
    """Returns the content of a head's decision.json: see the module."""
    size = given.size[0] or None
    source = SyntheticSource(seed=1, train=0, val=given.drawn, size=400)
    images = read(source, "val")
    class_numbers = [source.class_names.index(name) + 1 for name in FOLDS[0]]
    tasks = tasks_of(images, class_numbers, given)
    segmenter = embedding_once(apanet_jax.load(given.calibrate, size=size))
    decisions, errors = {}, {}
    for shot in given.shot:
        decision, found = _decision(segmenter, images, tasks, shot)
        decisions[shot] = decision._asdict()
        errors[shot] = _errors(decision, found)
    return {
        "size": segmenter.matcher.grid.size,
        "decisions": decisions,
        "on drawn pictures": errors,
    }


def _decision(
    segmenter: Segmenter, images: Sequence[Labelled], tasks: Sequence[Task], shot: int
) -> tuple[Decision, list[Prediction]]:
    """Returns the decision for a number of supports, and the predictions that it is fitted to."""
    rng, margins, labels = np.random.default_rng(1), [], []

    def keep(margin, truth):
        chosen = rng.choice(np.flatnonzero(truth != IGNORE), PIXELS)
        margins.append(margin.ravel()[chosen])
        labels.append(truth.ravel()[chosen] == 1)

    found = [x for task in tasks for x in predictions(segmenter, images, task, shot, keep)]
    fit = LogisticRegression(fit_intercept=False, C=np.inf)
    fit.fit(np.concatenate(margins)[:, None], np.concatenate(labels))
    numbers = Decision(0.0, 1 / fit.coef_[0, 0], *presence_weights(found))
    return Decision(*(round(float(x), 3) for x in numbers)), found


def _errors(decision: Decision, predicted: Sequence[Prediction]) -> Row:
    shown = np.array([x.shown for x in predicted])
    scores = np.array([decision.presence(x.peak, x.likeness) for x in predicted])
    found = scores > PRESENT
    return {
        "shown": int(shown.sum()),
        "absent": int((~shown).sum()),
        "missed": round(float((~found[shown]).mean()), 3),
        "found wrongly": round(float(found[~shown].mean()), 3),
        "area under the ROC curve": round(float(roc_auc_score(shown, scores)), 3),
    }


def fitted(rows: Sequence[Row]) -> list[str]:
    """Returns a line for each method and number of supports, see `--fit` in the module."""
    lines = []
    for method, shot in dict.fromkeys((row["method"], row["shot"]) for row in rows):
        of_classes = [
            [Prediction(**{k: v for k, v in x.items() if k != "found"}) for x in row["queries"]]
            for row in rows
            if (row["method"], row["shot"]) == (method, shot)
        ]
        weights = presence_weights([x for of_class in of_classes for x in of_class])
        signs, shown = [], []
        for index, of_class in enumerate(of_classes):
            others = [x for n, rest in enumerate(of_classes) if n != index for x in rest]
            bias, of_peak, of_likeness = presence_weights(others or of_class)
            signs += [bias + of_peak * x.peak + of_likeness * x.likeness for x in of_class]
            shown += [x.shown for x in of_class]
        roc = 100 * roc_auc_score(shown, signs)
        rounded = ", ".join(f"{x:.3f}" for x in weights)
        lines.append(f"{method}, {shot} supports: {rounded}; ROC by the other classes {roc:.1f}")
    return lines


def presence_weights(predicted: Sequence[Prediction]) -> tuple[float, float, float]:
    """Returns `Decision`'s bias, peak_weight and likeness_weight, fitted to predictions.

    Logistic regression in which the images that show the class count as much as those without.
    """
    signs = np.array([[x.peak, x.likeness] for x in predicted])
    fit = LogisticRegression(class_weight="balanced", C=np.inf)
    fit.fit(signs, np.array([x.shown for x in predicted]))
    return float(fit.intercept_[0]), *map(float, fit.coef_[0])
