"""The reference cases: what PFENet computes for seeded weights, and those weights.

The cases lie in `tests/reference`; `APANET_REFERENCE_DIR` names a folder with more of them.
"""

import filecmp
import functools
import importlib.util
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = Path(__file__).parent / "reference"

NAMES = {"vgg16bn": "vgg16_bn"}
"""Backbones whose name in a case's file name is not that of the weights' list and of ours."""


class Case(NamedTuple):
    """One file of the reference.

    Attributes:
      path: `pfenet_<backbone>_<K>shot.npz`.
      backbone: our name of its backbone.
    """

    path: Path
    backbone: str

    @property
    def side(self) -> int:
        """The longer side of its images, in pixels."""
        with np.load(self.path) as arrays:
            return max(arrays["query_label"].shape)

    @property
    def name(self) -> str:
        """Names it in reports of tests."""
        return self.path.stem if self.path.parent == FOLDER else str(self.path)


def cases() -> list[Case]:
    """Returns the repository's cases, then others that `APANET_REFERENCE_DIR` holds."""
    paths = sorted(FOLDER.glob("pfenet_*.npz"))
    added = os.environ.get("APANET_REFERENCE_DIR")
    for path in sorted(Path(added).glob("pfenet_*.npz")) if added else ():
        own = FOLDER / path.name
        if not (own.exists() and filecmp.cmp(own, path, shallow=False)):
            paths.append(path)
    names = [path.stem.split("_")[1] for path in paths]
    return [Case(path, NAMES.get(name, name)) for path, name in zip(paths, names, strict=True)]


def shapes(name: str) -> dict[str, list[int]]:
    """Returns the names and shapes of a whole PFENet's parameters.

    Args:
      name: a key of `state_dict.json`.
    """
    return json.loads((FOLDER / "state_dict.json").read_text())[name]


@functools.lru_cache(maxsize=1)
def seeded_tensors(name: str) -> dict[str, np.ndarray]:
    """Returns the stand-in weights of a whole PFENet under PyTorch's names; see `shapes`."""
    spec = importlib.util.spec_from_file_location("seeded", FOLDER / "seeded_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {key: module.seeded_parameter(key, tuple(shape)) for key, shape in shapes(name).items()}
