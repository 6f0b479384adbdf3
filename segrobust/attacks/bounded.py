"""The bounded attacks: one optimiser, and one pixel weight each.

    attack = CosPGD(eps="4/255", steps=100)
    result = attack(model, images, labels)

The defaults are the strong ones: APGD with radius reduction, 300 steps, best iterate by error. Each class carries the
settings of its own paper as ``published``; ``build_attack("CosPGD", preset="published")`` takes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segrobust.attacks import weights
from segrobust.attacks.base import Attack, Problem
from segrobust.attacks.optimise import STEP_SCHEDULES, Outcome, Record, Stage, apgd, pgd
from segrobust.attacks.weights import Pixels
from segrobust.errors import UserError
from segrobust.units import parse_eps

RADII = (2.0, 1.5, 1.0)
STAGE_SHARES = (30, 30, 40)  # percent of the steps


@dataclass(frozen=True, kw_only=True)
class UniformNoise(Attack):
    """Uniform noise in the ball, a control: an attack that does not beat it found nothing.

    Args:
        samples: draws per image; the one with the most wrong pixels is returned.
    """

    samples: int = 1
    control: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(samples=1)

    def passes(self) -> tuple[int, int]:
        return self.samples, 0

    def run(self, problem: Problem) -> tuple[Tensor, Tensor]:
        best = None
        for sample in range(self.samples):
            points = start_at_random(self, problem, sample, 1.0)
            error = problem.engine.measure(points).error
            best = Record(points, error) if best is None else best
            best.offer(points, error)
        return best.points, best.score


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One full step along the steepest direction of cross-entropy (Goodfellow et al., 2015, arXiv 1412.6572)."""

    paper: ClassVar[str] = "arXiv 1412.6572"
    can_target: ClassVar[bool] = True
    published: ClassVar = {}

    def passes(self) -> tuple[int, int]:
        return 2, 1

    def run(self, problem: Problem) -> tuple[Tensor, Tensor]:
        eps = problem.clean.new_full((len(problem.clean),), self.eps)
        gradient = problem.engine.gradient(problem.clean, weights.ce, 0.0).gradient
        step = self.threat.step(problem.clean, gradient, eps)
        points = self.threat.project(problem.clean + step, problem.clean, eps)
        return points, problem.engine.measure(points).error


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """PGD or APGD with a pixel weight.

    Args:
        steps: gradients in all, over the stages.
        optimiser: ``"apgd"`` or ``"pgd"``.
        radius_reduction: three stages at 2, 1.5 and 1 times eps with 30, 30 and 40 % of the steps
            (Croce et al., 2024, arXiv 2306.12941).
        step_size: of PGD, in image units; None: 2.5 / steps of the radius, at most the radius.
        step_schedule: of PGD: ``"constant"``, ``"linear"`` or ``"cosine"`` decay to zero.
        random_start: start from uniform noise in the first stage's ball.
        restarts: runs per image; the best one counts.
        track: what APGD's step control watches: ``"ce"`` or ``"error"`` (share of pixels at the goal).
        handover: iterate that the next stage starts from: the best by ``"error"`` or by ``"ce"``.
        keep: iterate that is returned: the ``"best"`` by error, or the ``"last"``.
        scope: a weight's schedule runs over each ``"stage"`` or over the whole ``"run"``.
    """

    steps: int = 300
    optimiser: str = "apgd"
    radius_reduction: bool = True
    step_size: float | str | None = None
    step_schedule: str = "constant"
    random_start: bool = True
    restarts: int = 1
    track: str = "ce"
    handover: str = "error"
    keep: str = "best"
    scope: str = "stage"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of(optimiser=("apgd", "pgd"), step_schedule=STEP_SCHEDULES, track=("ce", "error"))
        self._one_of(handover=("error", "ce"), keep=("best", "last"), scope=("stage", "run"))
        for field in ("steps", "restarts"):
            if not isinstance(getattr(self, field), int):
                raise UserError(f"{self.name}: expected {field} to be a whole number, got {getattr(self, field)!r}")
        self._at_least(steps=1, restarts=1)
        if self.step_size is not None:
            if self.optimiser == "apgd":
                raise UserError(
                    f"{self.name}: APGD chooses its steps itself; leave step_size out or set optimiser='pgd'"
                )
            object.__setattr__(self, "step_size", parse_eps(self.step_size, self.norm, "step_size"))

    def weight(self, pixels: Pixels) -> Tensor:
        """Weight of every pixel, ``[N, H, W]``."""
        raise NotImplementedError

    def sharpness(self, progress: float) -> float:
        """Factor on the logits inside the softmax of the gradient."""
        return 1.0

    def stages(self) -> list[tuple[float, int]]:
        """(multiple of eps, steps) of every stage that has steps."""
        if not self.radius_reduction:
            return [(1.0, self.steps)]
        first, second = (self.steps * share // 100 for share in STAGE_SHARES[:2])
        lengths = (first, second, self.steps - first - second)
        return [(radius, steps) for radius, steps in zip(RADII, lengths, strict=True) if steps]

    def passes(self) -> tuple[int, int]:
        return (self.steps + len(self.stages())) * self.restarts, self.steps * self.restarts

    def run(self, problem: Problem) -> tuple[Tensor, Tensor]:
        best = None
        for restart in range(self.restarts):
            found = self._run_once(problem, restart)
            best = found if best is None else best
            best.offer(found.points, found.score)
        return best.points, best.score

    def _run_once(self, problem: Problem, restart: int) -> Record:
        stages = self.stages()
        points = problem.clean
        if self.random_start:
            points = start_at_random(self, problem, restart, stages[0][0])
        done = 0
        for radius, steps in stages:
            outcome = self._run_stage(problem, points, radius, steps, done)
            points = (outcome.by_error if self.handover == "error" else outcome.by_ce).points
            done += steps
        return outcome.by_error if self.keep == "best" else outcome.last

    def _run_stage(self, problem: Problem, points: Tensor, radius: float, steps: int, done: int) -> Outcome:
        def gradient(at: Tensor, step: int):
            progress = step / steps if self.scope == "stage" else (done + step) / self.steps
            return problem.engine.gradient(at, self.weight, progress, self.sharpness(progress))

        eps = problem.clean.new_full((len(problem.clean),), radius * self.eps)
        stage = Stage(problem, self.threat, eps, steps, gradient)
        points = stage.project(points)
        if self.optimiser == "apgd":
            return apgd(stage, points, self.track)
        size = min(1.0, 2.5 / steps) * eps if self.step_size is None else torch.full_like(eps, self.step_size)
        return pgd(stage, points, size, self.step_schedule)


def start_at_random(attack: Attack, problem: Problem, restart: int, radius: float) -> Tensor:
    eps = problem.clean.new_full((len(problem.clean),), radius * attack.eps)
    return attack.threat.random_start(problem.clean, eps, problem.generators(restart))


PLAIN = {"optimiser": "pgd", "radius_reduction": False}
SEA = {"steps": 300, "optimiser": "apgd", "radius_reduction": True, "track": "ce", "handover": "error"}


@dataclass(frozen=True, kw_only=True)
class CEPGD(GradientAttack):
    """Cross-entropy (Madry et al., 2018, arXiv 1706.06083)."""

    paper: ClassVar[str] = "arXiv 1706.06083"
    can_target: ClassVar[bool] = True
    published: ClassVar = {**PLAIN, "steps": 10}

    def weight(self, pixels: Pixels) -> Tensor:
        return weights.ce(pixels)


@dataclass(frozen=True, kw_only=True)
class SegPGD(GradientAttack):
    """Correct pixels first, wrong ones more and more (Gu et al., 2022, arXiv 2207.12391)."""

    paper: ClassVar[str] = "arXiv 2207.12391"
    can_target: ClassVar[bool] = True
    published: ClassVar = {**PLAIN, "steps": 100, "step_size": 0.01, "keep": "last"}

    def weight(self, pixels: Pixels) -> Tensor:
        return weights.segpgd(pixels)


@dataclass(frozen=True, kw_only=True)
class CosPGD(GradientAttack):
    """Cosine of softmax and label as weight (Agnihotri et al., 2024, arXiv 2302.02213)."""

    paper: ClassVar[str] = "arXiv 2302.02213"
    can_target: ClassVar[bool] = True
    published: ClassVar = {**PLAIN, "steps": 100, "step_size": 0.01, "keep": "last"}

    def weight(self, pixels: Pixels) -> Tensor:
        return weights.cospgd(pixels)


@dataclass(frozen=True, kw_only=True)
class JSPGD(GradientAttack):
    """Jensen-Shannon divergence (Croce et al., 2024, arXiv 2306.12941)."""

    paper: ClassVar[str] = "arXiv 2306.12941"
    published: ClassVar = SEA

    def weight(self, pixels: Pixels) -> Tensor:
        return weights.jensen_shannon(pixels)


@dataclass(frozen=True, kw_only=True)
class MaskedPGD(GradientAttack):
    """Cross-entropy of the pixels not yet at the goal (Croce et al., 2024, arXiv 2306.12941)."""

    paper: ClassVar[str] = "arXiv 2306.12941"
    can_target: ClassVar[bool] = True
    published: ClassVar = SEA

    def weight(self, pixels: Pixels) -> Tensor:
        return weights.masked(pixels)


@dataclass(frozen=True, kw_only=True)
class BalancedPGD(GradientAttack):
    """Masked cross-entropy by inverse class frequency, against mIoU (Croce et al., 2024, arXiv 2306.12941).

    Args:
        class_counts: pixels per class of the training set; None: those of the image itself.
    """

    class_counts: tuple[float, ...] | None = None

    paper: ClassVar[str] = "arXiv 2306.12941"
    published: ClassVar = SEA

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_counts is not None:
            object.__setattr__(self, "class_counts", tuple(float(count) for count in self.class_counts))

    def weight(self, pixels: Pixels) -> Tensor:
        return weights.balanced(pixels, self.class_counts)


@dataclass(frozen=True, kw_only=True)
class TsallisPGD(GradientAttack):
    """Tsallis cross-entropy with a schedule of q (arXiv 2605.03405).

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
    published: ClassVar = {**SEA, "handover": "ce"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of(schedule=("fixed", "q_linear", "q_cosine", "p_linear", "p_cosine"))
        if max(self.q_start, self.q_end) > 1:
            raise UserError(
                f"{self.name}: expected q <= 1 (larger ones diverge at p = 0), got {self.q_start}, {self.q_end}"
            )
        if not (0 < self.p_start < 1 and 0 < self.p_end < 1 and 0 <= self.end_fraction <= 1):
            raise UserError(f"{self.name}: expected 0 < p_start, p_end < 1 and 0 <= end_fraction <= 1")

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


@dataclass(frozen=True, kw_only=True)
class SharpPGD(GradientAttack):
    """Expected pixel error under a softmax that is sharpened on the way: softmax(beta * logits), beta rising.

    A graduated version of the 0-1 loss; beta = 1 throughout is Tsallis with q = 0. Ours, unpublished.
    """

    beta_start: float = 1.0
    beta_end: float = 3.0
    can_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.beta_start, self.beta_end) <= 0:
            raise UserError(f"{self.name}: expected beta > 0, got {self.beta_start}, {self.beta_end}")

    def sharpness(self, progress: float) -> float:
        return weights.linear(self.beta_start, self.beta_end, progress)

    def weight(self, pixels: Pixels) -> Tensor:
        return weights.tsallis(pixels, 0.0)
