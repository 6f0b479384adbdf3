"""What a network is given and what it returns, between a segmenter's images and its logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.core.errors import UserError

Network = TypeVar("Network", bound=nn.Module)


def in_network_type(network: nn.Module, pixels: Tensor) -> Tensor:
    """Pixels in the precision of the network's first weight; as they are where it has none."""
    weights = (weight for weight in network.parameters() if weight.is_floating_point())
    return pixels.to(next(weights, pixels).dtype)


def in_channels_last(network: Network) -> Network:
    """The network with its weights in channels-last order, a third faster on a CPU than the usual one."""
    return network.to(memory_format=torch.channels_last)


def main_output(output: object) -> Tensor:
    """The logits in what a network returns: a tensor, or a mapping with ``"out"`` or ``"logits"``."""
    if isinstance(output, Mapping):
        output = next((output[key] for key in ("out", "logits") if key in output), output)
    if not isinstance(output, Tensor) or output.ndim != 4:
        shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f'the network must return logits [N,K,h,w] or a mapping with "out" or "logits", got {shown}')
    return output


def to_image_size(logits: Tensor, images: Tensor) -> Tensor:
    """Logits resized bilinearly (align_corners False) to the size of ``images``, untouched where they have it."""
    if logits.shape[-2:] == images.shape[-2:]:
        return logits
    return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
