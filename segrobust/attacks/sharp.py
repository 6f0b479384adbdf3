"""Expected pixel error under a sharpened softmax: a graduated version of the 0-1 loss. Ours, unpublished.

A loss per pixel of softmax(beta * logits) at the label, with beta rising on the way; beta = 1 throughout is Tsallis
cross-entropy with q = 0. With a large beta only the pixels near a decision boundary have a gradient.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from segrobust.attacks import weights
from segrobust.attacks.bounded import PerClass
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.registry import register_attack
from segrobust.attacks.weights import Pixels


@register_attack
class SharpPGD(GradientAttack):
    """Expected pixel error under a softmax that is sharpened on the way: softmax(beta * logits), beta rising.

    APGD's step control watches the pixel error itself, and its first step is one radius: much stronger on the standard
    CamVid model than with cross-entropy and two radii, about equal on the robust one (``benchmarks/README.md``).
    """

    track: str = "error"
    first_step: float = 1.0
    beta_start: float = 1.0
    beta_end: float = 3.0
    can_target: ClassVar[bool] = True
    logits_kept: ClassVar[int] = 3  # two kinds of probabilities, sharpened and not

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers("beta_start", "beta_end", above=0)

    def sharpness(self, progress: float) -> float:
        return weights.linear(self.beta_start, self.beta_end, progress)

    def weight(self, pixels: Pixels) -> Tensor:
        return weights.tsallis(pixels, 0.0)


@register_attack
class BalancedSharpPGD(PerClass, SharpPGD):
    """SharpPGD with every pixel weighted by the inverse pixel count of its class to a power, against mIoU.

    Args:
        balance: the power; 1 counts classes alike, 0 pixels.
    """

    balance: float = 0.5

    can_target: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers("balance")

    def weight(self, pixels: Pixels) -> Tensor:
        return super().weight(pixels) * self.rarity(pixels) ** self.balance
