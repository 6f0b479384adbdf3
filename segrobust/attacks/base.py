"""What every attack promises: a frozen object whose fields are its identity, called on a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from segrobust.attacks.configured import Configured
from segrobust.attacks.gradient import Engine
from segrobust.attacks.inputs import as_batch
from segrobust.attacks.segmentation import Goal, Segmentation, Task
from segrobust.attacks.trace import ErrorTrace
from segrobust.core.draws import Draws
from segrobust.core.errors import UserError, unknown_name
from segrobust.core.threats import THREATS, allowed, per_image
from segrobust.core.units import DEFAULT_EPS, FOUND_SHARE
from segrobust.models.segmenter import frozen_eval


@dataclass(frozen=True)
class Candidate:
    """More attacked images of the same batch, each with rows of its own.

    name: tells the candidates of one radius apart; "" where there is one per radius.
    eps: radius that all of the images keep to, in image units.
    images: ``[N, 3, H, W]`` float32 in [0, 1].
    """

    name: str
    eps: float
    images: Tensor


@dataclass(frozen=True)
class AttackResult:
    """Per image.

    images: ``[N, 3, H, W]`` float32 in [0, 1].
    distance: ``[N]``, norm of the change, in image units; also where nothing was found.
    found: ``[N]`` bool, the goal is reached on at least 99 % (a minimum-norm attack: ``apsr``) of the valid pixels.
    pixel_error: ``[N]``, share of the valid pixels that are wrong or, in a targeted attack, at their target (APSR):
        by the attack's own count or, for a minimum-norm attack, measured once more in float32 on ``images``; 0 for
        an image without a valid pixel.
    forwards, backwards: ``[N]`` long, passes spent on the image.
    candidates: worst images per further radius (minimum-norm attacks) or per member (ensembles).
    error_of_correct: ``[N]``, minimum-norm attacks: ``pixel_error`` over the pixels that were not at the goal before.
    distance_8bit: ``[N]``, minimum-norm attacks: norm after rounding to 8 bits, inf where that loses the goal; None
        where nothing was rounded (attacks with a cap, which are made for training).
    trace: of bounded attacks, how ``pixel_error`` grew; without points where an attack does not track it.
    """

    images: Tensor
    distance: Tensor
    found: Tensor
    pixel_error: Tensor
    forwards: Tensor
    backwards: Tensor
    candidates: tuple[Candidate, ...] = ()
    error_of_correct: Tensor | None = None
    distance_8bit: Tensor | None = None
    trace: ErrorTrace | None = None


class Answer(NamedTuple):
    """What ``Attack.run`` returns: points ``[N, 3, H, W]`` and the share of pixels whose goal they reach ``[N]``.

    before: of a minimum-norm attack, the pixels at the goal on the clean images, ``[N, H, W]`` bool.
    """

    points: Tensor
    error: Tensor
    candidates: tuple[Candidate, ...] = ()
    before: Tensor | None = None


class AttackContractError(RuntimeError):
    """An attack returned images that are not finite, outside [0, 1] or outside its radius."""


@dataclass(frozen=True)
class Problem:
    """One batch under attack; everything an optimiser needs."""

    engine: Engine
    clean: Tensor
    draws: Draws  # of every image, from its seed
    budgets: tuple[float, ...] = ()  # radii at which a minimum-norm attack also keeps its worst iterate
    class_weights: Tensor | None = None  # [N, H, W]: a search then also keeps its iterate of the largest balanced error
    start: Tensor | None = None  # [N, 3, H, W], where the first search begins; NaN: where it does without
    final_forward: bool = True  # whether a forward is spent on how good the answer is, where it has no other use

    def subset(self, rows: Tensor) -> Problem:
        """That of some images, by long indices ``[M]``, without budgets."""
        return Problem(self.engine.subset(rows), self.clean[rows], self.draws.subset(rows))


@dataclass(frozen=True, kw_only=True)
class Attack(Configured):
    """Base of all attacks: ``attack(model, images, labels) -> AttackResult``.

    Args:
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``.
        targeted: pixels are to become ``targets`` instead of leaving ``labels``.
        seed: of every image, where the call gives no ``seeds``.
    """

    norm: str = "Linf"
    targeted: bool = False
    seed: int = 0

    paper: ClassVar[str] = ""
    control: ClassVar[bool] = False
    can_target: ClassVar[bool] = False
    norms: ClassVar[tuple[str, ...]] = tuple(THREATS)
    minimum_norm: ClassVar[bool] = False
    takes_start: ClassVar[bool] = False  # whether it can begin at given points
    published: ClassVar[Mapping[str, Any] | None] = None
    logits_kept: ClassVar[int] = 2  # tensors of their size at a time, at least: they and what is computed from them
    defaults_of: ClassVar[str] = ""  # the attack whose defaults for a data set serve this one too

    def __post_init__(self) -> None:
        if self.norm not in THREATS:
            raise unknown_name("norm", str(self.norm), THREATS)
        if self.norm not in self.norms:
            raise UserError(f"{self.name} has no {self.norm} form; set norm to {' or '.join(self.norms)}")
        if self.targeted and not self.can_target:
            raise UserError(f"{self.name} has no targeted form; leave targeted out or take CEPGD, SegPGD or CosPGD")
        self._whole(seed=0)

    @property
    def threat(self):
        return THREATS[self.norm]

    def passes(self) -> tuple[int, int]:
        """Forwards and backwards spent on one image."""
        raise NotImplementedError

    @property
    def final_forward_is_optional(self) -> bool:
        """Whether the last forward of a call tells how good the answer is and has no part in it."""
        return False

    def _gradients(self) -> int:
        """Backwards spent on one image, 0 where the attack does not say."""
        try:
            return self.passes()[1]
        except NotImplementedError:
            return 0

    def candidate_names(self) -> tuple[str, ...]:
        """Names of the candidates per radius that the attack returns beside its answer, always all of them."""
        return ()

    def run(self, problem: Problem) -> tuple:
        """An :class:`Answer`, or its first two parts."""
        raise NotImplementedError

    def report(self, answer: Answer, problem: Problem) -> AttackResult:
        """The result, after everything that must hold has been checked."""
        raise NotImplementedError

    def __call__(
        self,
        model: torch.nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        ignore_index: int = 255,
        targets: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        budgets: Sequence[float] = (),
        mask: Tensor | None = None,
        task: Task | None = None,
        kept: Tensor | None = None,
        final_forward: bool = True,
        start: Tensor | None = None,
    ) -> AttackResult:
        """Attack a batch; the model's flags, gradients and buffers are left as they were.

        Args:
            model: maps images to logits ``[N, K, H, W]`` at image size (a :class:`segrobust.Segmenter`).
            images: ``[N, 3, H, W]`` float, RGB in [0, 1], a tensor or an array; what rounding (1e-6) has left outside
                is clipped.
            labels: ``[N, H, W]`` integers, a tensor or an array; pixels equal to ``ignore_index`` have no influence.
            targets: ``[N, H, W]`` long, wanted classes, for ``targeted=True``; ``ignore_index`` means any class: such
                pixels count neither in the goal nor in its success.
            seeds: one integer per image; an image's result depends on its seed, never on its neighbours.
            budgets: radii in image units at which a minimum-norm attack also keeps its worst iterate; see
                ``AttackResult.candidates``. Others have their own radius and take no notice.
            mask: where the attacker may write, ``[H, W]``, ``[N, H, W]`` or ``[N, 1, H, W]``, bool or 0 and 1; every
                pixel counts as before, and the rest of the image stays as it is. None: everywhere.
            task: what labels and logits mean; None: segmentation, with that ``ignore_index``.
            kept: ``[N, H, W]`` long, beside targets: classes that pixels without a target are to keep, which has a part
                in the loss and none in success; ``ignore_index`` means any class.
            final_forward: False: where ``final_forward_is_optional``, it is left out, for training. The images are the
                same; ``found`` and ``pixel_error`` are then those of the points before the last step or, for a
                minimum-norm attack, by its own count.
            start: ``[N, 3, H, W]``, points where the first run begins, put into ball and box; NaN: where it would
                begin without.

        Raises:
            UserError: wrong shapes, values outside [0, 1], labels outside the classes, or a start for an attack that
                takes none.
        """
        if not isinstance(model, torch.nn.Module):
            raise UserError(f"model: expected a segrobust.Segmenter, got {type(model).__name__}; see Segmenter.wrap")
        images, labels, targets, kept = as_batch(images, labels, targets, kept)
        task = task or Segmentation(ignore_index=ignore_index)
        goal = task.goal(images, labels, targets, self.targeted, mask, **({} if kept is None else {"kept": kept}))
        if isinstance(goal, Goal):
            goal = goal.for_gradients(self._gradients())
        seeds = (self.seed,) * len(images) if seeds is None else tuple(int(seed) for seed in seeds)
        if len(seeds) != len(images):
            raise UserError(f"seeds: expected one per image ({len(images)}), got {len(seeds)}")
        clean = images.detach().float().clamp(0, 1)
        engine = Engine(model, goal)
        if start is not None and (not self.takes_start or start.shape != clean.shape):
            wanted = "a start as large as the images" if self.takes_start else "no start"
            raise UserError(f"{self.name}: expected {wanted}, got one of shape {tuple(start.shape)}")
        draws = Draws.of(seeds, clean.device)
        problem = Problem(engine, clean, draws, tuple(budgets), start=start, final_forward=final_forward)
        with frozen_eval(model):
            answer = Answer(*self.run(problem))
            engine.check_finite()
            judged = per_image(goal.pixels > 0)
            points = torch.where(judged, answer.points, clean).detach()
            error = answer.error.masked_fill(~judged.flatten(), 0)
            return self.report(answer._replace(points=points, error=error), problem)

    def _check_images(self, points: Tensor, problem: Problem, eps: Tensor | float) -> Tensor:
        """Distance ``[N]``; refuse points that are no images, farther than ``eps`` from the clean ones or changed
        where the attacker may not write."""
        distance = self.threat.distance(points - problem.clean)
        farther = distance > allowed(self.norm, eps)
        if not torch.isfinite(points).all() or points.amin() < 0 or points.amax() > 1 or farther.any():
            raise AttackContractError(f"{self.name} left its bounds: {self.norm} up to {distance.max():g} > {eps}")
        if not torch.equal(problem.engine.goal.restrict(points, problem.clean), points):
            raise AttackContractError(f"{self.name} changed pixels outside the mask")
        return distance


@dataclass(frozen=True, kw_only=True)
class BoundedAttack(Attack):
    """Base of the attacks that look for the most wrong pixels within a radius.

    Args:
        eps: radius in image units, or a string such as ``"8/255"``.
    """

    eps: float | str = DEFAULT_EPS

    def __post_init__(self) -> None:
        super().__post_init__()
        self._image_units("eps")

    def report(self, answer: Answer, problem: Problem) -> AttackResult:
        points, error, candidates, _ = answer
        distance = self._check_images(points, problem, self.eps)
        for candidate in candidates:
            self._check_images(candidate.images, problem, candidate.eps)
        engine = problem.engine
        found = error >= FOUND_SHARE
        passes, trace = (engine.forwards, engine.backwards), ErrorTrace(engine.history)
        return AttackResult(points, distance, found, error, *passes, candidates, trace=trace)
