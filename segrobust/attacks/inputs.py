"""What a caller may give an attack, checked: images and labels as tensors or arrays, targets, and a mask."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segrobust.core.errors import UserError

ROUNDING = 1e-6  # beyond [0, 1], as undoing a normalisation leaves behind
OVERSHOOT = 0.05  # beyond [0, 1], as resizing with cubic splines leaves behind


def as_batch(
    images: Any, labels: Any, targets: Any = None, kept: Any = None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Images as a tensor; class ids as long tensors on the images' device, those of another kind as they are.

    Raises:
        UserError: neither a tensor nor an array of numbers.
    """
    images = as_tensor("images", images)
    labels, given = _ids("labels", labels, images), {"targets": targets, "kept": kept}
    return images, labels, *(None if ids is None else _ids(what, ids, images) for what, ids in given.items())


def _ids(what: str, given: Any, images: Tensor) -> Tensor:
    given = as_tensor(what, given)
    return given if given.is_floating_point() or given.is_complex() else given.to(images.device).long()


def as_tensor(what: str, given: Any) -> Tensor:
    """A tensor as it is, an array of numbers copied; UserError: neither, named ``what``."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        return torch.from_numpy(np.array(given, dtype=given.dtype.newbyteorder("=")))
    if not isinstance(given, Tensor):
        kind = f"array of {given.dtype}" if isinstance(given, np.ndarray) else type(given).__name__
        raise UserError(f"{what}: expected a tensor or an array of numbers, got {kind}; torch.stack makes one of many")
    return given


def check_images(images: Tensor) -> None:
    """Refuse a batch that is not float ``[N, 3, H, W]`` in [0, 1], in one line."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise UserError(f"images: expected float [N, 3, H, W], got {images.dtype} {tuple(images.shape)}")
    if not images.numel():
        raise UserError(f"images: expected at least one, got {tuple(images.shape)}")
    check_range(images, "images")


def check_classes(classes: Tensor, named: str, images: Tensor, ignore_index: int) -> None:
    """Refuse class ids that are not integers ``[N, H, W]`` of at least 0, where not void."""
    shape = (len(images), *images.shape[2:])
    if tuple(classes.shape) != shape or classes.is_floating_point():
        raise UserError(f"{named}: expected integers {shape}, got {classes.dtype} {tuple(classes.shape)}")
    if (classes < 0).logical_and(classes != ignore_index).any():
        raise UserError(f"{named}: expected classes >= 0 or {ignore_index} (void), got {int(classes.min())}")


def check_range(images: Tensor, named: str) -> None:
    """Refuse, in one line about what is ``named``, values that are not in [0, 1] up to rounding."""
    low, high = (float(bound) for bound in images.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        got = "NaN" if math.isnan(low) or math.isnan(high) else f"{low:g} to {high:g}"
        raise UserError(f"{named}: expected values in [0, 1], got {got}; look at how they were read or normalised")
    if low < -ROUNDING or high > 1 + ROUNDING:
        what = "divide 8-bit images by 255" if low >= 0 else "leave normalisation to the model (mean=, std=)"
        if -OVERSHOOT <= low < 0.5 < high <= 1 + OVERSHOOT:
            what = "clamp them to [0, 1]"
        raise UserError(f"{named}: expected values in [0, 1], got {low:.8g} to {high:.8g}; {what}")


def writable(mask: Any, images: Tensor) -> Tensor | None:
    """Where the attacker may write, ``[N, 1, H, W]`` bool."""
    if mask is None:
        return None
    mask = as_tensor("mask", mask).to(images.device)
    size = tuple(images.shape[2:])
    shape = (len(images), 1, *size)
    fits = tuple(mask.shape) in (size, (shape[0], *size), shape)
    if not fits or not ((mask == 0) | (mask == 1)).all():
        raise UserError(
            f"mask: expected 0 or 1 (where the attacker may write) of shape {size}, {(shape[0], *size)} or {shape}, "
            f"got {mask.dtype} {tuple(mask.shape)} from {float(mask.min()):g} to {float(mask.max()):g}"
        )
    return (mask if mask.ndim == 4 else mask.view(-1, 1, *size)).bool().expand(shape)
