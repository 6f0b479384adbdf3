"""Pixel weights: what tells the attacks of the PGD family apart.

A loss that depends on the logits u of a pixel only through p_y, the softmax probability of its label, has the
logit gradient ``w * (softmax(u) - onehot(y))``: that of cross-entropy times a weight w >= 0. Every function here
returns such weights, ``[N, H, W]``, computed from ``log p_y`` so that no probability ever underflows into an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from segrobust.attacks.per_class import count
from segrobust.core.errors import UserError


@dataclass(frozen=True)
class Pixels:
    """What a weight may look at; ``labels`` are the targets in a targeted attack."""

    log_p: Tensor  # [N, H, W], log probability of the label (of the sharpened softmax, where there is one)
    correct: Tensor  # [N, H, W] bool, the label has the largest logit
    softmax: Callable[[], Tensor]  # all probabilities, on demand: they are K times as large as the rest
    num_classes: int
    labels: Tensor  # [N, H, W] long, void pixels hold 0
    valid: Tensor  # [N, H, W] bool
    progress: float  # 0 <= progress < 1, over the stage or the run
    targeted: bool

    @cached_property
    def probabilities(self) -> Tensor:
        """``[N, K, H, W]``."""
        return self.softmax()


def ce(pixels: Pixels) -> Tensor:
    """Cross-entropy: every pixel alike."""
    return torch.ones_like(pixels.log_p)


def segpgd(pixels: Pixels) -> Tensor:
    """SegPGD (Gu et al., 2022, arXiv 2207.12391): 1 - lambda where the goal is not reached, lambda = progress / 2."""
    reached = pixels.correct if pixels.targeted else ~pixels.correct
    late = pixels.progress / 2
    return torch.where(reached, late, 1 - late).to(pixels.log_p.dtype)


def cospgd(pixels: Pixels) -> Tensor:
    """CosPGD (Agnihotri et al., 2024, arXiv 2302.02213, eq. 5): cosine of the softmax and the one-hot label; 1 - cosine
    in the targeted form."""
    # a norm over dim 1 is five times slower on the CPU than this
    cosine = pixels.log_p.exp() / pixels.probabilities.square().sum(1).sqrt_()
    return 1 - cosine if pixels.targeted else cosine


def jensen_shannon(pixels: Pixels) -> Tensor:
    """Jensen-Shannon divergence between softmax and one-hot label (Croce et al., 2024, arXiv 2306.12941):
    p/2 * log(1 + 1/p)."""
    p = pixels.log_p.exp()
    # below exp(-1000) p is exactly zero, and 0 * inf must stay 0
    return 0.5 * p * (p.log1p() - pixels.log_p.clamp_min(-1000))


def masked(pixels: Pixels) -> Tensor:
    """Cross-entropy of the pixels whose goal is not reached (masked CE of Croce et al., 2024)."""
    return (~pixels.correct if pixels.targeted else pixels.correct).to(pixels.log_p.dtype)


def rarity(labels: Tensor, valid: Tensor, num_classes: int, class_counts: tuple[float, ...] | None) -> Tensor:
    """The inverse pixel count of every pixel's class, ``[N, H, W]``, up to a factor; void pixels hold anything.

    Args:
        class_counts: of a whole data set; None: those of each image.
    """
    if class_counts is None:
        counts = count(labels, valid, num_classes).float().clamp_min(1)
        return counts.reciprocal().gather(1, labels.flatten(1)).view_as(labels)
    if len(class_counts) != num_classes:
        raise UserError(f"class_counts: expected one count per class ({num_classes}), got {len(class_counts)}")
    return _inverse(tuple(class_counts), labels.device)[labels]


@lru_cache(maxsize=8)
def _inverse(class_counts: tuple[float, ...], device: torch.device) -> Tensor:
    """Inverse counts with a sum of 1, ``[K]``; made once, since a copy from the host waits for the device."""
    inverse = torch.tensor(class_counts).clamp_min(1).reciprocal()
    return (inverse / inverse.sum()).to(device)


def tsallis(pixels: Pixels, q: float) -> Tensor:
    """Tsallis cross-entropy (1 - p^(1-q)) / (1-q) (arXiv 2605.03405): p^(1-q).

    q = 1 is cross-entropy, q = 0 is 1 - p.
    """
    return torch.exp((1 - q) * pixels.log_p) if q != 1 else torch.ones_like(pixels.log_p)


def sweep(progress: float, end_fraction: float) -> float:
    """Progress of a schedule that rests at its start until the last ``end_fraction`` of the steps (0: none)."""
    if not 0 < end_fraction < 1:
        return progress
    return max(0.0, (progress - (1 - end_fraction)) / end_fraction)


def linear(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress


def cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def peak_to_q(peak: float) -> float:
    """The q whose logit gradient p^(1-q) (1-p) is largest at p = ``peak``: (1 - 2 peak) / (1 - peak)."""
    return (1 - 2 * peak) / (1 - peak)
