"""One sigmoid channel as two logits, so that attacks and metrics see an ordinary network of two classes.

logits = two_logits(z, decision_logit(0.3))       # [0, z - logit(0.3)]: class 1 where sigmoid(z) > 0.3
"""

from __future__ import annotations

import torch
from torch import Tensor

from segrobust.core.errors import UserError


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
