"""Where the attacker may write: one perturbation mask for all images of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segrobust.core.errors import UserError
from segrobust.datasets.files import read_label
from segrobust.datasets.source import Source


def read_mask(given: Any, source: Source) -> Tensor:
    """The mask as ``[H, W]`` bool on the CPU.

    Args:
        given: a PNG of one channel, or a tensor or an array ``[H, W]``; the attacker may write where it is not 0.

    Raises:
        UserError: no such file, not one channel, all of it 0, or images of another size.
    """
    what = f"mask {given}" if isinstance(given, str | Path) else "mask"
    values = read_label(given) if isinstance(given, str | Path) else np.asarray(given)
    if values.ndim != 2:
        raise UserError(f"{what}: expected one channel [H, W], got {tuple(values.shape)}")
    mask = torch.from_numpy(values != 0)
    if not mask.any():
        raise UserError(f"{what}: the attacker may write nowhere; expected values above 0 where it may")
    for index in range(len(source)):  # now, and not when an image of another size comes up after hours
        sample = source[index]
        if sample.label.shape != mask.shape:
            sizes = ["x".join(map(str, shape)) for shape in (mask.shape, sample.label.shape)]
            raise UserError(f"{what} is {sizes[0]} (height x width), but image {sample.name} is {sizes[1]}; one mask "
                            "serves images of one size: resize them in the test pipeline")  # fmt: skip
    return mask
