"""What :meth:`Segmenter.wrap` is told of a network besides the network: each is checked, and refused in one line."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from segrobust.core.errors import UserError, unknown_name

RANGES = (1, 255)  # of the values that a network was trained on
ORDERS = ("rgb", "bgr")


def channel_values(
    what: str, values: Sequence[float] | None, default: float, top: float, device: torch.device
) -> Tensor:
    """``mean`` or ``std`` as ``[1, 3, 1, 1]``, for images from 0 to ``top``; UserError: not three such values."""
    try:
        values = [default] * 3 if values is None else [float(value) for value in values]
    except (TypeError, ValueError):
        raise UserError(f"{what}: expected three values (R, G, B), got {values!r}") from None
    if len(values) != 3:
        raise UserError(f"{what}: expected three values (R, G, B), got {len(values)}")
    if max(values) > top:
        raise UserError(
            f"{what}: images lie in [0, {top:g}], so expected values up to {top:g}, got {values}; divide them by 255"
            + (", or set input_range=255 for a network that sees 0 to 255" if top == 1 else "")
        )
    if what == "std" and min(values) <= 0:
        raise UserError(f"std: expected positive values, got {values}")
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)


def checked_divisor(value: int) -> int:
    """A size divisor; UserError: no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"size_divisor: expected a whole number of at least 1, such as 32, got {value!r}")
    return value


def checked_range(value: float) -> int:
    """1 or 255; UserError: neither."""
    if isinstance(value, bool) or value not in RANGES:
        raise UserError(f"input_range: expected 1 or 255, the largest value of what the network sees, got {value!r}")
    return int(value)


def checked_order(value: str) -> str:
    """``rgb`` or ``bgr``; UserError: neither."""
    if str(value).lower() not in ORDERS:
        raise unknown_name("channel_order", str(value), ORDERS)
    return str(value).lower()


def checked_channels(values: Sequence[int] | None, num_classes: int) -> tuple[int, ...] | None:
    """``keep_classes`` as a tuple, one per class; UserError: other numbers."""
    if values is None:
        return None
    try:
        channels = tuple(map(operator.index, values))
    except TypeError:
        channels = (-1,)
    if min(channels, default=-1) < 0 or len(set(channels)) < len(channels):
        raise UserError(f"keep_classes: expected different output channels, such as [0, 1, 2], got {values!r}")
    if len(channels) != num_classes:
        raise UserError(f"keep_classes: expected one output channel per class ({num_classes}), got {len(channels)}")
    return channels


def kept(logits: Tensor, channels: tuple[int, ...]) -> Tensor:
    """These channels of ``[N, C, H, W]`` in this order, without an index on the device that autograd would add up with.

    Raises:
        UserError: the network has fewer channels.
    """
    if max(channels) >= logits.shape[1]:
        count = logits.shape[1]
        raise UserError(
            f"keep_classes: channel {max(channels)} of the network's {count} (0 to {count - 1}) is not there"
        )
    first = channels[0]
    if channels == tuple(range(first, first + len(channels))):
        return logits[:, first : first + len(channels)]
    return torch.cat([logits[:, one : one + 1] for one in channels], 1)
