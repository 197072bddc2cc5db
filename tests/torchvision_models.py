"""Torchvision's own models with random weights, changed as PFENet changes them."""

import torch
from torch import nn

from tests.networks import channels_last, with_random_norms

try:
    from torchvision import models
except RuntimeError:
    # Beside another build of torch, its compiled operators are missing; importing names two.
    _operators = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import models


def dilated_resnet(name: str) -> nn.Module:
    """Returns a ResNet of stride 8: layer3 dilated by 2 and layer4 by 4, first units included."""
    network = getattr(models, name)()
    for layer, dilation in ((network.layer3, 2), (network.layer4, 4)):
        for module_name, module in layer.named_modules():
            if module_name.endswith("conv2"):
                module.dilation = module.padding = (dilation, dilation)
                module.stride = (1, 1)
            elif module_name.endswith("downsample.0"):
                module.stride = (1, 1)
    return with_random_norms(network)


def ceil_mode_vgg(name: str) -> nn.Module:
    """Returns a VGG whose pooling rounds sizes up."""
    network = getattr(models, name)()
    for module in network.features:
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = True
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.bias, 0, 0.2)
    return with_random_norms(network)


def outputs_of(modules: dict[str, nn.Module], run) -> dict:
    """Calls `run`, and returns what each of the named modules gave, channels last."""
    outputs = {}

    def keep(name):
        # Copied: a ReLU behind the module may change it in place.
        return lambda _, __, output: outputs.update({name: channels_last(output.clone())})

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return outputs
