"""What the comparisons with networks in PyTorch share."""

import numpy as np
import torch
from torch import nn


def normalised(images) -> torch.Tensor:
    """Returns pictures (uint8, channels last) as the ImageNet networks take them."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return (x - mean) / deviation


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()


def with_random_norms(network: nn.Module) -> nn.Module:
    """Returns the network in evaluation mode, with BatchNorms as trained ones could be."""
    with torch.no_grad():
        for module in network.eval().modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1)
                module.bias.normal_(0, 0.2)
    return network


def tensors_of(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def relative_error(ours, theirs) -> float:
    """Returns the largest deviation over the largest magnitude that is expected."""
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
