"""What a network is given and what it returns, between a segmenter's images and its logits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.core.errors import UserError


def in_network_type(network: nn.Module, pixels: Tensor) -> Tensor:
    """Pixels in the precision of the network's first weight; as they are where it has none."""
    weights = (weight for weight in network.parameters() if weight.is_floating_point())
    return pixels.to(next(weights, pixels).dtype)


def in_channels_last(network: nn.Module) -> nn.Module:
    """The network with its weights in channels-last order, a third faster on a CPU than the usual one."""
    return network.to(memory_format=torch.channels_last)


def main_output(output: object) -> Tensor:
    """The logits in what a network returns: a tensor, the first of several, a mapping's ``"out"`` or ``"logits"``."""
    if isinstance(output, list | tuple):  # auxiliary outputs come after the main one
        output = next((one for one in output if isinstance(one, Tensor) and one.ndim == 4), output)
    if isinstance(output, Mapping):
        output = next((output[key] for key in ("out", "logits") if key in output), output)
    if not isinstance(output, Tensor) or output.ndim != 4:
        shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(
            'the network must return logits [N,K,h,w], a tuple or list that begins with them, or a mapping with "out" '
            f'or "logits", got {shown}'
        )
    return output


def to_image_size(logits: Tensor, images: Tensor) -> Tensor:
    """Logits resized bilinearly (align_corners False) to the size of ``images``, untouched where they have it."""
    if logits.shape[-2:] == images.shape[-2:]:
        return logits
    return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def decision_logit(threshold: float) -> float:
    """The largest float32 whose sigmoid is not above ``threshold``: logit(threshold), rounded as torch's sigmoid does.

    Raises:
        UserError: a threshold that is not between 0 and 1.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < 1:
        raise UserError(f"threshold: expected a probability between 0 and 1, got {threshold!r}")
    low, high = torch.tensor([-104.0, 104.0])  # sigmoid is 0 and 1 there
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (low, middle) if middle.sigmoid() > threshold else (middle, high)
    return low.item()


def two_logits(channel: Tensor, decision: float) -> Tensor:
    """``[N, 1, H, W]`` -> ``[N, 2, H, W]``: 0 and the margin; argmax is 1 where ``channel`` is above ``decision``."""
    margin = channel.float() - decision if channel.dtype != torch.float64 else channel - decision
    return torch.cat((torch.zeros_like(margin), margin), 1)
