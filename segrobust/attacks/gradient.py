"""The one place that turns (model, points, weight) into an input gradient and per-image statistics.

One forward, the closed-form logit gradient ``w * (softmax - onehot)``, one backward with respect to the input
alone. Nobody else calls autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from segrobust.attacks.weights import Pixels
from segrobust.core.errors import UserError
from segrobust.models.expectation import Expectation
from segrobust.models.failures import modules_that_write_on_their_input

Weight = Callable[[Pixels], Tensor]


class ModelError(RuntimeError):
    """The model cannot be attacked: no gradient reaches the input, or logits or gradients are not finite."""


class NotFiniteError(ModelError):
    """Its logits or the gradient with respect to the images hold NaN or infinity."""


@dataclass(frozen=True)
class Goal:
    """Which pixels count and what is wanted of them.

    labels: ``[N, H, W]`` long, the classes to leave (or, targeted, to reach); void pixels hold 0.
    valid: ``[N, H, W]`` bool.
    highest: the largest class among all valid labels and targets, which must be one of the model's.
    mask: ``[N, 1, H, W]`` bool, where the attacker may write; None: everywhere.
    """

    labels: Tensor
    valid: Tensor
    targeted: bool = False
    highest: int = 0
    mask: Tensor | None = None

    @property
    def pixels(self) -> Tensor:
        """Number of valid pixels per image, ``[N]``."""
        return self.valid.flatten(1).sum(1)

    def subset(self, rows: Tensor) -> Goal:
        """That of some images, by long indices ``[M]``."""
        mask = None if self.mask is None else self.mask[rows]
        return replace(self, labels=self.labels[rows], valid=self.valid[rows], mask=mask)

    def restrict(self, points: Tensor, clean: Tensor) -> Tensor:
        """``points`` where the attacker may write, ``clean`` elsewhere."""
        return points if self.mask is None else torch.where(self.mask, points, clean)


@dataclass(frozen=True)
class Measurement:
    """Per image at the points of one forward: mean cross-entropy to the labels (or targets) over the valid pixels,
    and the share of valid pixels whose goal is reached: wrong ones or, targeted, those at their target; ``reached``
    is the map of those pixels, ``[N, H, W]`` bool."""

    ce: Tensor
    error: Tensor
    gradient: Tensor | None = None
    reached: Tensor | None = None


class Engine:
    """Counts the passes of one attack on one batch, per image."""

    def __init__(self, model: torch.nn.Module, goal: Goal) -> None:
        self.model = model
        self.goal = goal
        self._samples = model.samples if isinstance(model, Expectation) else 1
        self.forwards = torch.zeros(len(goal.labels), dtype=torch.long)
        self.backwards = torch.zeros_like(self.forwards)
        self._rows: Tensor | slice = slice(None)
        self._valid_pixels = goal.pixels.clamp_min(1)
        self._kept: dict[int, Tensor] = {}

    def subset(self, rows: Tensor) -> Engine:
        """The engine of some images of this one, which counts their passes here.

        Args:
            rows: long indices ``[M]`` into this engine's images.
        """
        part = Engine(self.model, self.goal.subset(rows))
        part.forwards, part.backwards = self.forwards, self.backwards
        part._rows = torch.arange(len(self.forwards))[self._rows][rows.cpu()]
        return part

    def measure(self, points: Tensor) -> Measurement:
        """One forward without a gradient."""
        gap, log_p, *_ = self.look(points, self._softmax)
        return self._measurement(log_p, gap == 0)

    def look(self, points: Tensor, read: Callable[[Tensor], Any]) -> Any:
        """What ``read`` makes of the logits ``[N, K, H, W]`` of one forward without a gradient."""
        with torch.no_grad():
            return read(self._logits(points))

    def gradient(self, points: Tensor, weight: Weight, progress: float, sharpness: float = 1.0) -> Measurement:
        """One forward and one backward; the gradient ascends the weighted loss (descends it, targeted)."""

        def ascent(logits: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            ascent, *statistics = self._logit_gradient(logits, weight, progress, sharpness)
            return ascent, statistics

        gradient, (log_p, correct) = self.pull(points, ascent)
        return self._measurement(log_p, correct, gradient)

    def along(self, points: Tensor, logit_gradient: Callable[[Tensor, Tensor], Tensor]) -> Measurement:
        """One forward and one backward of a loss that is no weighted cross-entropy.

        Args:
            logit_gradient: from the logits ``[N, K, H, W]`` and the map ``[N, H, W]`` of the pixels at their label to
                the ascent direction in the logits, zero at void pixels.
        """

        def ascent(logits: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            gap, log_p, *_ = self._softmax(logits)
            return logit_gradient(logits, gap == 0), (log_p, gap == 0)

        gradient, (log_p, correct) = self.pull(points, ascent)
        return self._measurement(log_p, correct, gradient)

    def pull(self, points: Tensor, logit_gradient: Callable[[Tensor], tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
        """One forward and one backward of any logit gradient.

        Args:
            logit_gradient: from the logits ``[N, K, H, W]`` to what is pulled back to the input, of the same shape,
                and anything else; called without autograd, once.

        Returns:
            The input gradient ``[N, 3, H, W]`` and that anything else.
        """
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self._logits(points)
        if not logits.requires_grad:
            raise ModelError(
                "the logits do not depend on the images through autograd; "
                "detached output, inference_mode or a non-differentiable step inside the model?"
            )
        with torch.no_grad():
            ascent, rest = logit_gradient(logits.detach())
        (gradient,) = self._backward(logits, points, ascent)
        if any(_share_memory(gradient, kept) for kept in self._kept.values()):  # a model that hands its input on
            gradient = gradient.clone()
        autocast = torch.is_autocast_enabled(points.device.type)
        self.backwards[self._rows] += self._samples
        if autocast:  # half precision overflows; such a pixel waits for the next step
            gradient = gradient.nan_to_num_(0, 0, 0)
        if not torch.isfinite(gradient.sum()):
            raise NotFiniteError("the gradient with respect to the images is not finite")
        return gradient if self.goal.mask is None else gradient * self.goal.mask, rest

    def _backward(self, logits: Tensor, points: Tensor, ascent: Tensor) -> tuple[Tensor]:
        try:
            return torch.autograd.grad(logits, points, ascent)
        except RuntimeError as error:
            if "inplace operation" not in str(error):
                raise
            names = ", ".join(modules_that_write_on_their_input(self.model, points)[:5])
            where = (
                f"working in place on their input: {names} (set inplace=False there)"
                if names
                else ("it stands in a forward itself (such as x += y or x.relu_()): write it as x = x + y there")
            )
            raise ModelError(
                f"a step in place breaks the gradient; {where}; torch says: {str(error).splitlines()[0][:200]}"
            ) from error

    def _logits(self, points: Tensor) -> Tensor:
        first = not self.forwards.any()
        logits = self.model(points)
        self.forwards[self._rows] += self._samples
        expected = (len(points), *points.shape[2:])
        if not isinstance(logits, Tensor):
            raise ModelError(
                f"expected logits [N, K, H, W], the model returns a {type(logits).__name__}; "
                "wrap it with segrobust.Segmenter.wrap(net, num_classes=...)"
            )
        if logits.ndim != 4 or (logits.shape[0], *logits.shape[2:]) != expected:
            raise ModelError(
                f"expected logits [N, K, H, W] at the images' size {expected}, got {tuple(logits.shape)}; "
                "wrap the model in segrobust.Segmenter"
            )
        if first:
            self._check_first(logits)
        return logits if logits.dtype == torch.float64 else logits.float()

    def _check_first(self, logits: Tensor) -> None:
        if not torch.isfinite(logits).all():
            raise NotFiniteError("the model returns logits that are not finite on the images it starts from")
        if self.goal.highest >= logits.shape[1]:
            raise UserError(f"labels: expected classes 0..{logits.shape[1] - 1} or void, got {self.goal.highest}")

    def _softmax(self, logits: Tensor, sharpness: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """How far the label's logit is below the largest (<= 0), log p of the label, and the same and all
        probabilities of softmax(sharpness * logits).

        log p comes from the logits and the largest probability, which never underflows: log p_y = u_y - u_max + log
        p_max. A gap of 0 counts as right; argmax may see a tie otherwise, but takes fifty times as long on a CPU.
        """
        probabilities = self.memory(logits)
        # over dim 1 a reduction is five times slower in channels-last memory than this copy and the reduction
        planes = logits if sharpness == 1 and logits.is_contiguous() else probabilities.copy_(logits)
        gap = planes.gather(1, self.goal.labels.unsqueeze(1)).squeeze(1).sub_(planes.amax(1))
        plain = torch.softmax(planes, 1, out=probabilities if sharpness == 1 else self.memory(logits, 1))
        log_p = gap + plain.amax(1).log_()
        if sharpness == 1:
            return gap, log_p, log_p, probabilities
        torch.softmax(planes.mul_(sharpness), 1, out=probabilities)
        return gap, log_p, (gap * sharpness).add_(probabilities.amax(1).log_()), probabilities

    def memory(self, logits: Tensor, place: int = 0) -> Tensor:
        """The same memory in every step: fresh pages of this size cost a CPU as much as the arithmetic does."""
        kept = self._kept.get(place)
        if kept is None or (kept.shape, kept.dtype, kept.device) != (logits.shape, logits.dtype, logits.device):
            kept = self._kept[place] = torch.empty_like(logits, memory_format=torch.contiguous_format)
        return kept

    def _logit_gradient(
        self, logits: Tensor, weight: Weight, progress: float, sharpness: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        goal = self.goal
        gap, log_p, sharp_log_p, probabilities = self._softmax(logits, sharpness)
        correct = gap == 0
        pixels = Pixels(sharp_log_p, correct, probabilities, goal.labels, goal.valid, progress, goal.targeted)
        weights = weight(pixels).mul(goal.valid)
        if goal.targeted:
            weights = -weights
        ascent = probabilities.mul_(weights.unsqueeze(1))
        ascent.scatter_add_(1, goal.labels.unsqueeze(1), -weights.unsqueeze(1))
        return ascent, log_p, correct

    def _measurement(self, log_p: Tensor, correct: Tensor, gradient: Tensor | None = None) -> Measurement:
        valid = self.goal.valid
        reached = (correct if self.goal.targeted else ~correct) & valid
        ce = -log_p.masked_fill(~valid, 0).flatten(1).sum(1) / self._valid_pixels
        return Measurement(ce, self.share(reached), gradient, reached)

    def share(self, pixels: Tensor) -> Tensor:
        """Share ``[N]`` of the valid pixels that are in ``pixels``, ``[N, H, W]`` bool, valid ones alone."""
        return pixels.flatten(1).sum(1) / self._valid_pixels


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
