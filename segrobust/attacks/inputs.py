"""The images and labels that a caller may give an attack: tensors or arrays, ids of any integer type."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from segrobust.errors import UserError


def as_batch(images: Any, labels: Any, targets: Any = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Images as a tensor; labels and targets as long tensors on the images' device, those of another kind as they are.

    Raises:
        UserError: neither a tensor nor an array of numbers.
    """
    images = as_tensor("images", images)
    labels = _ids("labels", labels, images)
    return images, labels, None if targets is None else _ids("targets", targets, images)


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
