"""Tsallis cross-entropy as a training loss of mmseg's heads, with classes weighted and q moving along the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.core.errors import UserError

NEAR = 1e-6  # of 1, where the loss is cross-entropy


@MODELS.register_module()
class TsallisLoss(nn.Module):
    """(1 - p_y^(1 - q)) / (1 - q) per pixel (Tsallis cross-entropy, arXiv 2605.03405): q = 1 is cross-entropy, q = 0 is
    1 - p_y, the expected pixel error, and the smaller q, the less a pixel counts that is wrong anyway.

    Averaged as by mmseg's CrossEntropyLoss: with class weights over the weights of the labelled pixels, else over all
    pixels or, ``avg_non_ignore``, the labelled ones. Balanced cross-entropy is q = 1 with class weights, there or here.

    Args:
        q: at most 1; at the beginning of the training where there is a ``q_end``.
        q_end: at its end, which q goes to in a straight line over the runner's iterations; None: q stays.
        class_weight: one per class.
        loss_weight, loss_name, avg_non_ignore: as of mmseg's losses.

    Raises:
        UserError: a q above 1, where the loss has no bound for a gradient at p = 0.
    """

    def __init__(
        self,
        q: float = 1.0,
        q_end: float | None = None,
        class_weight: Sequence[float] | None = None,
        loss_weight: float = 1.0,
        loss_name: str = "loss_tsallis",
        avg_non_ignore: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("q", q), ("q_end", 1.0 if q_end is None else q_end)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value <= 1:
                raise UserError(f"TsallisLoss: expected {name} to be a number <= 1, got {value!r}")
        self.q, self.q_end = q, q_end
        self.class_weight, self.loss_weight, self.loss_name = class_weight, loss_weight, loss_name
        self.avg_non_ignore = avg_non_ignore

    def q_at(self, progress: float) -> float:
        """q at a share of the training."""
        return self.q if self.q_end is None else self.q + (self.q_end - self.q) * progress

    def forward(
        self, cls_score: Tensor, label: Tensor, weight: Tensor | None = None, ignore_index: int = 255, **_: Any
    ) -> Tensor:
        """Of logits ``[N, K, H, W]`` at labels ``[N, H, W]``; ``weight``, ``[N, H, W]``, is a sampler's."""
        minus_log_p = F.cross_entropy(cls_score, label, reduction="none", ignore_index=ignore_index)
        loss = tsallis(minus_log_p, self.q_at(_progress() if self.q_end is not None else 0.0))
        valid = label != ignore_index
        if self.class_weight is not None:
            of_class = cls_score.new_tensor(self.class_weight)[label.masked_fill(~valid, 0)] * valid
            loss, count = loss * of_class, of_class.sum()
        else:
            count = valid.sum() if self.avg_non_ignore else torch.as_tensor(label.numel())
        loss = loss if weight is None else loss * weight.float()
        return self.loss_weight * loss.sum() / count.clamp_min(torch.finfo(torch.float32).eps)


def tsallis(minus_log_p: Tensor, q: float) -> Tensor:
    """(1 - p^(1 - q)) / (1 - q), from -log p."""
    return minus_log_p if abs(1 - q) < NEAR else -torch.expm1((q - 1) * minus_log_p) / (1 - q)


def _progress() -> float:
    """Share of the runner's iterations that are done; 0 where there is no runner."""
    hub = MessageHub.get_current_instance()
    return hub.get_info("iter", 0) / max(1, hub.get_info("max_iters", 1))
