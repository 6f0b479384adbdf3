"""The bounded attacks: one optimiser, and one pixel weight each.

    attack = CosPGD(eps="4/255", steps=100)
    result = attack(model, images, labels)

The defaults are the strong ones: APGD with radius reduction, 300 steps, best iterate by error. Each class carries the
settings of its own paper as ``published``, those for Linf; ``build_attack("CosPGD", preset="published")`` takes them.
Void pixels never count, and a gradient is a sum over pixels where published code takes a mean: the steps are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from segrobust.attacks import weights
from segrobust.attacks.base import BoundedAttack, Problem
from segrobust.attacks.gradient_attack import GradientAttack, start_at_random
from segrobust.attacks.optimise import BestIterate
from segrobust.attacks.registry import register_attack
from segrobust.attacks.weights import Pixels
from segrobust.core.errors import UserError


@register_attack
class UniformNoise(BoundedAttack):
    """Uniform noise in the ball, a control: an attack that does not beat it found nothing.

    Args:
        samples: draws per image; the one with the most wrong pixels is returned.
    """

    samples: int = 1
    control: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole(samples=1)

    def passes(self) -> tuple[int, int]:
        return self.samples, 0

    def run(self, problem: Problem) -> tuple[Tensor, Tensor]:
        best = BestIterate(problem.clean)
        for sample in range(self.samples):
            points = start_at_random(self, problem, sample, 1.0)
            best.update(points, problem.engine.measure(points).error)
        return best.points, best.score


@register_attack
class FGSM(BoundedAttack):
    """One full step along the steepest direction of cross-entropy (Goodfellow et al., 2015, arXiv 1412.6572)."""

    paper: ClassVar[str] = "arXiv 1412.6572"
    can_target: ClassVar[bool] = True
    published: ClassVar = {}

    def passes(self) -> tuple[int, int]:
        return 2, 1

    @property
    def final_forward_is_optional(self) -> bool:
        return True

    def run(self, problem: Problem) -> tuple[Tensor, Tensor]:
        eps = problem.clean.new_full((len(problem.clean),), self.eps)
        measured = problem.engine.gradient(problem.clean, weights.ce, 0.0)
        step = self.threat.step(problem.clean, measured.gradient, eps)
        points = self.threat.project(problem.clean + step, problem.clean, eps)
        return points, (problem.engine.measure(points) if problem.final_forward else measured).error


@dataclass(frozen=True, kw_only=True)
class PerClass(BoundedAttack):
    """Base of what weighs pixels by their class.

    Args:
        class_counts: pixels per class of the training set; None: those of each image.
    """

    class_counts: tuple[float, ...] | None = None

    defaults_of: ClassVar[str] = "BalancedPGD"

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = self.class_counts
        if counts is None:
            return
        numbers = isinstance(counts, Sequence) and all(isinstance(n, int | float) and n >= 0 for n in counts)
        if not numbers or not counts:
            raise UserError(f"{self.name}: expected class_counts=[one per class], got {counts!r}")
        object.__setattr__(self, "class_counts", tuple(float(count) for count in counts))

    def rarity(self, pixels: Pixels) -> Tensor:
        return weights.rarity(pixels.labels, pixels.valid, pixels.num_classes, self.class_counts)


PGD_SETTINGS = {"optimiser": "pgd", "radius_reduction": False}
SEA_SETTINGS = {"steps": 300, "optimiser": "apgd", "radius_reduction": True, "track": "ce", "handover": "error"}


@register_attack
class CEPGD(GradientAttack):
    """Cross-entropy (Madry et al., 2018, arXiv 1706.06083); published: 10 steps of eps/4, best iterate, as the plain
    PGD of arXiv 2605.03405."""

    paper: ClassVar[str] = "arXiv 1706.06083"
    can_target: ClassVar[bool] = True
    published: ClassVar = {**PGD_SETTINGS, "eps": "8/255", "steps": 10}
    weight = staticmethod(weights.ce)


@register_attack
class SegPGD(GradientAttack):
    """Correct pixels first, wrong ones more and more (Gu et al., 2022, arXiv 2207.12391).

    Published: step size and 100 steps as restated by the papers of CosPGD and SEA.
    """

    paper: ClassVar[str] = "arXiv 2207.12391"
    can_target: ClassVar[bool] = True
    published: ClassVar = {**PGD_SETTINGS, "eps": "8/255", "steps": 100, "step_size": 0.01, "keep": "last"}
    weight = staticmethod(weights.segpgd)


@register_attack
class CosPGD(GradientAttack):
    """Cosine of softmax and label as weight (Agnihotri et al., 2024, arXiv 2302.02213).

    Published: radius and steps of the paper; its code says 0.03 for 8/255.
    """

    paper: ClassVar[str] = "arXiv 2302.02213"
    can_target: ClassVar[bool] = True
    published: ClassVar = {**PGD_SETTINGS, "eps": "8/255", "steps": 100, "step_size": 0.01, "keep": "last"}
    weight = staticmethod(weights.cospgd)


@register_attack
class JSPGD(GradientAttack):
    """Jensen-Shannon divergence (Croce et al., 2024, arXiv 2306.12941)."""

    paper: ClassVar[str] = "arXiv 2306.12941"
    published: ClassVar = SEA_SETTINGS
    weight = staticmethod(weights.jensen_shannon)


@register_attack
class MaskedPGD(GradientAttack):
    """Cross-entropy of the pixels not yet at the goal (Croce et al., 2024, arXiv 2306.12941)."""

    paper: ClassVar[str] = "arXiv 2306.12941"
    can_target: ClassVar[bool] = True
    published: ClassVar = SEA_SETTINGS
    weight = staticmethod(weights.masked)


@register_attack
class BalancedPGD(PerClass, GradientAttack):
    """Masked cross-entropy times the inverse pixel count of the label's class, whose sum bounds the mean IoU from above
    (Croce et al., 2024, arXiv 2306.12941, section 3); published with ``class_counts`` of the training set."""

    paper: ClassVar[str] = "arXiv 2306.12941"
    published: ClassVar = SEA_SETTINGS

    def weight(self, pixels: Pixels) -> Tensor:
        return weights.masked(pixels) * self.rarity(pixels)


@register_attack
class TsallisPGD(GradientAttack):
    """Tsallis cross-entropy with a schedule of q (arXiv 2605.03405).

    Left out: the floor of 1e-12 that the published code puts under p, below which a pixel has no gradient there.

    Args:
        schedule: ``"q_linear"`` or ``"q_cosine"`` from q_start to q_end; ``"p_linear"`` or ``"p_cosine"`` move the
            probability where the gradient peaks from p_start to p_end; ``"fixed"`` keeps q_start.
        end_fraction: the schedule rests at its start until this last share of the steps; 0: no rest.
    """

    schedule: str = "q_linear"
    q_start: float = -2.0
    q_end: float = 1.0
    p_start: float = 0.9
    p_end: float = 0.1
    end_fraction: float = 0.0

    paper: ClassVar[str] = "arXiv 2605.03405"
    can_target: ClassVar[bool] = True
    published: ClassVar = {**SEA_SETTINGS, "handover": "ce", "halves_first": False}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of(schedule=("fixed", "q_linear", "q_cosine", "p_linear", "p_cosine"))
        self._numbers("q_start", "q_end")
        self._numbers("p_start", "p_end", above=0, below=1)
        self._numbers("end_fraction", least=0, up_to=1)
        if max(self.q_start, self.q_end) > 1:
            raise UserError(
                f"{self.name}: expected q <= 1 (larger ones diverge at p = 0), got {self.q_start}, {self.q_end}"
            )

    def q(self, progress: float) -> float:
        """The entropic index at ``progress`` in [0, 1]."""
        if self.schedule == "fixed":
            return self.q_start
        kind, shape = self.schedule.split("_")
        path = weights.linear if shape == "linear" else weights.cosine
        at = weights.sweep(progress, self.end_fraction)
        if kind == "q":
            return path(self.q_start, self.q_end, at)
        return weights.peak_to_q(path(self.p_start, self.p_end, at))

    def weight(self, pixels: Pixels) -> Tensor:
        return weights.tsallis(pixels, self.q(pixels.progress))
