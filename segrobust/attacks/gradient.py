"""The one place that turns (model, points, weight) into an input gradient and per-image statistics.

One forward, the goal's closed-form logit gradient, one backward with respect to the input alone. Nobody else calls
autograd.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from segrobust.attacks.segmentation import Goal, Weight
from segrobust.core.errors import first_line
from segrobust.models.captured import layout_of
from segrobust.models.expectation import Expectation
from segrobust.models.failures import modules_that_write_on_their_input

ASCENT = 2  # its place in the memory that an engine keeps; goals use those before
LogitGradient = Callable[[Tensor], tuple[Tensor, Any]]


class ModelError(RuntimeError):
    """The model cannot be attacked: no gradient reaches the input, or logits or gradients are not finite."""


class NotFiniteError(ModelError):
    """Its logits or the gradient with respect to the images hold NaN or infinity."""


@dataclass(frozen=True)
class Measurement:
    """Per image at the points of one forward: mean cross-entropy to the labels (or targets) over the valid pixels,
    and the share of valid pixels whose goal is reached: wrong ones or, targeted, those at their target; ``reached``
    is the map of those pixels, ``[N, H, W]`` bool."""

    ce: Tensor
    error: Tensor
    gradient: Tensor | None = None
    reached: Tensor | None = None


@dataclass
class Passes:
    """Those of one engine, the same number on each of its images.

    rows: long indices ``[M]`` of these images among all of the batch, on its device; None: all.
    """

    rows: Tensor | None = None
    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class BestError:
    """Errors ``[M]`` of one engine's images at their best points so far, on the device.

    engine: its place in ``History.passes``. backwards: so far, of all engines there.
    """

    engine: int
    backwards: tuple[int, ...]
    error: Tensor


@dataclass
class History:
    """What an engine and its subsets have done on one batch.

    finite: 0-dim bool on the device, whether all gradients were finite; None before the first one.
    errors: as they were tracked, in order.
    """

    images: int
    passes: list[Passes] = field(default_factory=list)
    finite: Tensor | None = None
    errors: list[BestError] = field(default_factory=list)

    def total(self, of: str) -> Tensor:
        """Forwards or backwards per image, ``[N]`` long, on the CPU; waits for the device if images have left."""
        total = torch.zeros(self.images, dtype=torch.long)
        for one in self.passes:
            total[slice(None) if one.rows is None else one.rows.cpu()] += getattr(one, of)
        return total


class Engine:
    """Counts the passes of one attack on one batch, per image."""

    def __init__(self, model: torch.nn.Module, goal: Goal) -> None:
        self.model = model
        self.goal = goal
        self._samples = model.samples if isinstance(model, Expectation) else 1
        self._history = History(len(goal.valid))
        self._begin(None)

    def _begin(self, rows: Tensor | None) -> None:
        self._passes, self._place = Passes(rows), len(self._history.passes)
        self._history.passes.append(self._passes)
        self._kept: dict[int, Tensor] = {}

    def subset(self, rows: Tensor) -> Engine:
        """The engine of some images of this one, which counts their passes here.

        Args:
            rows: long indices ``[M]`` into this engine's images.
        """
        part = copy.copy(self)
        part.goal = self.goal.subset(rows)
        part._begin(rows if self._passes.rows is None else self._passes.rows[rows])
        return part

    @property
    def forwards(self) -> Tensor:
        """So far, of every image of the batch, ``[N]`` long, on the CPU."""
        return self._history.total("forwards")

    @property
    def backwards(self) -> Tensor:
        """So far, of every image of the batch, ``[N]`` long, on the CPU."""
        return self._history.total("backwards")

    @property
    def history(self) -> History:
        """That of the batch, which subsets share."""
        return self._history

    def track(self, error: Tensor) -> None:
        """Keep the error ``[N]`` at the best points so far beside the passes until now; waits for nothing."""
        backwards = tuple(one.backwards for one in self._history.passes)
        self._history.errors.append(BestError(self._place, backwards, error))

    def measure(self, points: Tensor) -> Measurement:
        """One forward without a gradient."""
        ce, reached = self.forward(points, lambda logits: self.goal.measure(logits, self.memory))
        return Measurement(ce, self.goal.share(reached), reached=reached)

    def forward(self, points: Tensor, read: Callable[[Tensor], Any]) -> Any:
        """What ``read`` makes of the logits ``[N, K, H, W]`` of one forward without a gradient."""
        with torch.no_grad():
            return read(self._logits(points))

    def gradient(self, points: Tensor, weight: Weight, progress: float, sharpness: float = 1.0) -> Measurement:
        """One forward and one backward; the gradient ascends the weighted loss (descends it, targeted)."""

        return self.measured_gradient(
            points, lambda logits: self.goal.logit_gradient(logits, weight, progress, sharpness, self.memory)
        )

    def measured_gradient(self, points: Tensor, logit_gradient: LogitGradient) -> Measurement:
        """One forward and one backward of any loss.

        Args:
            logit_gradient: from the logits ``[N, K, H, W]`` to the ascent direction in them, zero at void pixels, and
                what ``Goal.measure`` says of them.
        """
        gradient, (ce, reached) = self.backward(points, logit_gradient)
        return Measurement(ce, self.goal.share(reached), gradient, reached)

    def backward(self, points: Tensor, logit_gradient: LogitGradient) -> tuple[Tensor, Any]:
        """One forward and one backward of any logit gradient.

        Args:
            logit_gradient: from the logits ``[N, K, H, W]`` to the ascent direction in them, of the same shape,
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
        (gradient,) = self._backward(logits, points, self._in_layout_of(logits, ascent))
        if any(_share_memory(gradient, kept) for kept in self._kept.values()):  # a model that hands its input on
            gradient = gradient.clone()
        self._passes.backwards += self._samples
        # in half precision, which overflows, such a pixel waits for the next step
        if not torch.is_autocast_enabled(points.device.type):
            self._watch(torch.isfinite(gradient.sum()))
        gradient = gradient.nan_to_num(0, 0, 0)
        return gradient if self.goal.mask is None else gradient * self.goal.mask, rest

    def _watch(self, finite: Tensor) -> None:
        """Look at the first gradient at once, and keep what is to be said of the others until ``check_finite``."""
        first = self._history.finite is None
        self._history.finite = finite if first else self._history.finite & finite
        if first:
            self.check_finite()

    def check_finite(self) -> None:
        """Refuse gradients so far that were not finite, NotFiniteError; waits for the device."""
        if self._history.finite is not None and not self._history.finite:
            raise NotFiniteError("the gradient with respect to the images is not finite")

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
                f"a step in place breaks the gradient; {where}; torch says: {first_line(error)[:200]}"
            ) from error

    def _logits(self, points: Tensor) -> Tensor:
        first = not any(one.forwards for one in self._history.passes)
        logits = self.model(points)
        self._passes.forwards += self._samples
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
        # a sum is quick, and finite only where all are
        if not torch.isfinite(logits.sum()) and not torch.isfinite(logits).all():
            raise NotFiniteError("the model returns logits that are not finite on the images it starts from")
        self.goal.check(logits)

    def _in_layout_of(self, logits: Tensor, ascent: Tensor) -> Tensor:
        """A logit gradient in the memory order of the logits, in which the backward of a resize takes half the time."""
        layout = layout_of(logits)
        if ascent.is_cuda or ascent.is_contiguous(memory_format=layout):
            return ascent.contiguous(memory_format=layout)
        return self.memory(logits, ASCENT, layout).copy_(ascent)

    def memory(self, logits: Tensor, place: int = 0, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
        """The same memory in every step: fresh pages of this size cost a CPU as much as the arithmetic does."""
        kept = self._kept.get(place)
        if kept is None or (kept.shape, kept.dtype, kept.device) != (logits.shape, logits.dtype, logits.device):
            kept = self._kept[place] = torch.empty_like(logits, memory_format=layout)
        return kept


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
