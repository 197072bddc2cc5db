"""The model card of an exported head: what it is, what it scores, how to use it."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData

from apanet_jax.config.definitions import NO_FOLD, Settings

if TYPE_CHECKING:
    from apanet_jax.inference.heads.saved_head import BackboneWeights

_PYTORCH_FEM = """\
With PFENet's published network (its `down_query`, `down_supp`, `init_merge`, … are these tensors):

```python
from safetensors.torch import load_file

missing, unexpected = network.load_state_dict(load_file("model.safetensors"), strict=False)
assert not unexpected and all(name.startswith("layer") for name in missing)  # its backbone
```"""

_PYTORCH_CONV = """\
In PyTorch, with `query` and `support` the concatenated middle features `[B, c, h, w]`, the
prototype `[B, d, 1, 1]` the average of `down_supp`'s output under the support's mask (of several,
`[B, d, h, w]`: at each position that of its part), and `prior` `[B, p, h, w]`:

```python
from safetensors.torch import load_file
from torch.nn.functional import conv2d

t = load_file("model.safetensors")
reduced = conv2d(query, t["{query}.weight"], t["{query}.bias"]).relu()
seen = torch.cat([reduced, prototype.expand_as(reduced), prior], 1)
hidden = conv2d(seen, t["compare.0.weight"], t["compare.0.bias"], padding=1).relu()
logits = conv2d(hidden, t["compare.3.weight"], t["compare.3.bias"])  # background, foreground
```"""

_PROGRAM, _LIMITS = "## Program", "## Limits"

_CARD = """\
---
{header}
---

# {title}

The head of a few-shot segmentation network: it compares a new image with one to five images that
show a class with a mask, and says where the class is. Trained by apanet_jax, after
Chen et al., *APANet: Adaptive Prototypes Alignment Network for Few-Shot Semantic Segmentation*.

| | |
|---|---|
{facts}

## Scores

{scores}

## Use

The backbone is frozen and not in the file. Middle features are block 4 and block 3 side by side.
{unit_features}
{pytorch}

In apanet_jax:

    python -m apanet_jax.main --mode=evaluate --workdir=WORKDIR \\
        --config=configs/saved.py:config.json,records=RECORDS,checkpoint=model.safetensors

| tensor | shape |
|---|---|
{tensors}

## Limits

It was trained on {classes} of one data set, on images of {size} pixels a
side. It always marks something: it does not say that an image shows none of the class.
"""


def model_card(
    settings: Settings,
    tensors: Mapping[str, np.ndarray],
    results: Sequence[Mapping[str, Any]],
    checkpoint: str,
    step: int,
    weights: "BackboneWeights",
) -> str:
    """Returns the card as Markdown with a YAML header, as model hubs read it.

    Args:
      settings: of the run.
      tensors: of the exported file, by name.
      results: the objects of `results.json` of this checkpoint; may be none.
      checkpoint: "best" or "last".
      step: of the training.
      weights: of the backbone it was trained on.
    """
    dataset = settings.dataset or "own images"
    kind = "APANet" if settings.model.num_clusters else "Baseline"
    title = f"{kind} ({settings.model.comparison}, {settings.backbone.name}), {dataset}"
    of_all = settings.fold == NO_FOLD
    title += ", all classes" if of_all else f", fold {settings.fold}"
    pytorch = _PYTORCH_FEM
    if settings.model.comparison == "conv":
        reduction = "down_supp" if settings.model.shared_reduction else "down_query"
        pytorch = _PYTORCH_CONV.replace("{query}", f"{reduction}.0")
    return _CARD.format(
        classes="all classes" if of_all else "the base classes of one fold",
        header=_header(title, dataset, results),
        title=title,
        facts=_rows(_facts(settings, checkpoint, step, weights)),
        scores=_scores(results, checkpoint),
        unit_features=_unit_features(settings),
        pytorch=pytorch,
        tensors=_rows([(f"`{name}`", list(x.shape)) for name, x in tensors.items()]),
        size=settings.image_size,
    )


def with_program(card: str, described: str | None) -> str:
    """Returns a card that describes this program and no other, or none.

    Args:
      card: what `model_card` returned, or what this function made of it.
      described: what the section says; None: there is no program.
    """
    card = re.sub(rf"^{_PROGRAM}\n.*?(?=^## )", "", card, flags=re.MULTILINE | re.DOTALL)
    if described is None:
        return card
    before, limits, after = card.partition(_LIMITS)
    return f"{before}{_PROGRAM}\n\n{described}\n{limits}{after}"


def _header(title: str, dataset: str, results: Sequence[Mapping[str, Any]]) -> str:
    scores = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=dataset,
            dataset_name=f"{dataset}, fold {row['fold']}, {row['shot']}-shot",
            metric_type="mean_iou",
            metric_value=row["miou"],
        )
        for row in results
    ]
    data = ModelCardData(
        model_name=title,
        library_name="apanet_jax",
        pipeline_tag="image-segmentation",
        tags=["few-shot", "semantic-segmentation"],
        eval_results=scores or None,
    )
    return data.to_yaml()


def _facts(
    settings: Settings, checkpoint: str, step: int, weights: "BackboneWeights"
) -> list[tuple[str, Any]]:
    model, backbone, size = settings.model, settings.backbone, settings.image_size
    stem = f", {backbone.stem} stem" if backbone.name.startswith("resnet") else ""
    branch = f"n = {model.num_clusters}, lambda = {model.agnostic_weight}"
    return [
        ("backbone", f"{backbone.name}{stem}, weights: {backbone.weights or 'the usual ImageNet'}"),
        ("fingerprint of these weights (SHA-256)", weights.fingerprint),
        ("images", f"{size}x{size} pixels, {_normalisation(settings)}"),
        ("comparison", model.comparison),
        ("prior masks from", ", ".join(model.priors) or "none"),
        ("prototypes of a support", model.foreground_prototypes),
        ("class-agnostic branch, in training", branch if model.num_clusters else "none"),
        ("training supports", settings.shot),
        ("checkpoint", f"{checkpoint}, step {step}, seed {settings.seed}"),
    ]


def _normalisation(settings: Settings) -> str:
    if settings.backbone.name == "efficientnet_lite0":
        return "normalised as (x - 127) / 128"
    return "normalised with ImageNet's mean and deviation"


def _scores(results: Sequence[Mapping[str, Any]], checkpoint: str) -> str:
    if not results:
        return "This checkpoint was not evaluated."
    lines = ["| shots | mIoU | FB-IoU | episodes |", "|---|---|---|---|"]
    lines += [
        f"| {row['shot']} | {row['miou']:.1f} | {row['fb_iou']:.1f} | {row['episodes']} |"
        for row in results
    ]
    text = "Novel classes of this fold, in percent:\n\n" + "\n".join(lines)
    if checkpoint == "best":
        text += "\n\nThe checkpoint was chosen on episodes of these very classes; that flatters."
    return text


def _unit_features(settings: Settings) -> str:
    if not settings.model.unit_features:
        return ""
    return "Each position of them is scaled to a mean square of 1.\n"


def _rows(pairs: Sequence[tuple[str, Any]]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in pairs)
