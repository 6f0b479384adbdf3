"""Segmentation as a task: the goal of an attack on class labels, its logit gradient, and what rows count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from segrobust.attacks import fused
from segrobust.attacks.inputs import check_classes, check_images, writable
from segrobust.attacks.weights import Pixels
from segrobust.core.errors import UserError

Weight = Callable[[Pixels], Tensor]
Memory = Callable[..., Tensor]  # from the logits and a place to a buffer of their shape, the same one in every step
PLAIN = 1  # place of a softmax beside the sharpened one


@dataclass(frozen=True)
class Goal:
    """Which pixels count and what is wanted of them.

    labels: ``[N, H, W]`` long, the classes to leave (or, targeted, to reach); void pixels hold 0.
    valid: ``[N, H, W]`` bool.
    rest: ``[N, H, W]`` bool, valid pixels that are only to stay at their class: together they weigh at most as much
        as all others, and success is not counted over them; None: none.
    highest: the largest class among all valid labels and targets, which must be one of the model's.
    mask: ``[N, 1, H, W]`` bool, where the attacker may write; None: everywhere.
    compiled: on a GPU, what goes over all logits is compiled.
    """

    labels: Tensor
    valid: Tensor
    targeted: bool = False
    highest: int = 0
    mask: Tensor | None = None
    compiled: bool = False
    rest: Tensor | None = None

    @cached_property
    def judged(self) -> Tensor:
        """The pixels that success is counted over, ``[N, H, W]`` bool: the valid ones without the rest."""
        return self.valid if self.rest is None else self.valid & ~self.rest

    @cached_property
    def pixels(self) -> Tensor:
        """Number of judged pixels per image, ``[N]``."""
        return self.judged.flatten(1).sum(1)

    @cached_property
    def balance(self) -> Tensor:
        """Weight of every pixel where there is a rest, ``[N, H, W]``: 1, and of the rest less the more they are."""
        ratio = self.pixels / self.rest.flatten(1).sum(1).clamp_min(1)
        return torch.where(self.rest, ratio.clamp(max=1).view(-1, 1, 1), self.valid.float())

    def for_gradients(self, count: int) -> Goal:
        """That of a call with so many gradients per image, which with the images alone decides whether to compile."""
        return replace(self, compiled=count * self.labels.numel() >= fused.WORTH_COMPILING)

    def subset(self, rows: Tensor) -> Goal:
        """That of some images, by long indices ``[M]``."""
        mask = None if self.mask is None else self.mask[rows]
        rest = None if self.rest is None else self.rest[rows]
        return replace(self, labels=self.labels[rows], valid=self.valid[rows], mask=mask, rest=rest)

    def share(self, reached: Tensor) -> Tensor:
        """Share ``[N]`` of the judged pixels that are at their goal, ``[N, H, W]`` bool, valid ones alone."""
        reached = reached if self.rest is None else reached & self.judged
        return reached.flatten(1).sum(1) / self.pixels.clamp_min(1)

    def restrict(self, points: Tensor, clean: Tensor) -> Tensor:
        """``points`` where the attacker may write, ``clean`` elsewhere."""
        return points if self.mask is None else torch.where(self.mask, points, clean)

    def check(self, logits: Tensor) -> None:
        """Refuse logits ``[N, K, H, W]`` that do not have all the classes; UserError."""
        if self.highest >= logits.shape[1]:
            raise UserError(f"labels: expected classes 0..{logits.shape[1] - 1} or void, got {self.highest}")

    def measure(self, logits: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Cross-entropy ``[N]``, the mean over the valid pixels, and the pixels at their goal ``[N, H, W]``."""
        if on_gpu := fused.functions(logits, self.compiled):
            found = on_gpu.softmax(logits, self.labels, None)
            return self._statistics(found.log_p, found.below == 0)
        below, log_p, *_ = self._softmax(logits, 1.0, memory)
        return self._statistics(log_p, below == 0)

    def logit_gradient(
        self, logits: Tensor, weight: Weight, progress: float, sharpness: float, memory: Memory
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``w * (softmax - onehot)``, which ascends the weighted cross-entropy (descends it, targeted), and what
        ``measure`` returns."""
        if on_gpu := fused.functions(logits, self.compiled):
            return self._on_gpu(on_gpu, logits, weight, progress, sharpness)
        below, log_p, sharp_log_p, probabilities = self._softmax(logits, sharpness, memory)
        correct = below == 0
        weights = self._weights(weight, progress, sharp_log_p, correct, lambda: probabilities, logits.shape[1])
        ascent = probabilities.mul_(weights.unsqueeze(1))
        ascent.scatter_add_(1, self.labels.unsqueeze(1), -weights.unsqueeze(1))
        return ascent, self._statistics(log_p, correct)

    def _on_gpu(
        self, on_gpu: fused.Functions, logits: Tensor, weight: Weight, progress: float, sharpness: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The same, in few passes over the logits that a compiler fuses; ``weight`` is called as it is."""
        factor = None if sharpness == 1 else logits.new_full((), sharpness)  # filled there, unlike a tensor of a number
        found = on_gpu.softmax(logits, self.labels, factor)
        correct = found.below == 0
        of_logits = (logits, found.largest, found.log_sum, factor)
        weights = self._weights(
            weight, progress, found.sharp_log_p, correct, lambda: fused.probabilities(*of_logits), logits.shape[1]
        )
        ascent = on_gpu.ascent(logits, self.labels, weights, found.largest, found.log_sum, factor)
        return ascent, self._statistics(found.log_p, correct)

    def _weights(
        self,
        weight: Weight,
        progress: float,
        log_p: Tensor,
        correct: Tensor,
        softmax: Callable[[], Tensor],
        num_classes: int,
    ) -> Tensor:
        """Of the valid pixels; negative where the targets are to be reached."""
        pixels = Pixels(log_p, correct, softmax, num_classes, self.labels, self.valid, progress, self.targeted)
        weights = weight(pixels).mul(self.valid if self.rest is None else self.balance)
        return -weights if self.targeted else weights

    def _softmax(self, logits: Tensor, sharpness: float, memory: Memory) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """How far the label's logit is below the largest (<= 0), log p of the label, and the same and all
        probabilities of softmax(sharpness * logits).

        Image by image, since what a CPU has just written it reads twice as fast.
        """
        probabilities = memory(logits)
        plain = probabilities if sharpness == 1 else memory(logits[:1], PLAIN)
        maps = logits.new_empty((3, *self.labels.shape))
        for number in range(len(logits)):
            at = slice(number, number + 1)
            memory_of_one = plain[at] if sharpness == 1 else plain
            found = _softmax_of_one(logits[at], self.labels[at], sharpness, memory_of_one, probabilities[at])
            for whole, part in zip(maps, found, strict=True):
                whole[at] = part
        return *maps, probabilities

    def _statistics(self, log_p: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
        log_p, pixels = log_p.masked_fill(~self.valid, 0), self.pixels
        if self.rest is not None:
            log_p, pixels = log_p * self.balance, self.balance.flatten(1).sum(1)
        ce = -log_p.flatten(1).sum(1) / pixels.clamp_min(1)
        return ce, (correct if self.targeted else ~correct) & self.valid


def _softmax_of_one(
    logits: Tensor, labels: Tensor, sharpness: float, plain: Tensor, probabilities: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one image, ``[1, K, H, W]``: the first three that ``Goal._softmax`` returns, and the fourth in its place.

    log p comes from the logits and the largest probability, which never underflows: log p_y = u_y - u_max + log
    p_max. A difference of 0 counts as right; argmax may see a tie otherwise, but takes fifty times as long on a CPU.

    Args:
        plain: memory for softmax(logits), which may be that of the probabilities where the sharpness is 1.
    """
    # over dim 1 a reduction is five times slower in channels-last memory than this copy and the reduction
    planes = logits if sharpness == 1 and logits.is_contiguous() else probabilities.copy_(logits)
    below = planes.gather(1, labels.unsqueeze(1)).squeeze(1).sub_(planes.amax(1))
    log_p = below + torch.softmax(planes, 1, out=plain).amax(1).log_()
    if sharpness == 1:
        return below, log_p, log_p
    torch.softmax(planes.mul_(sharpness), 1, out=probabilities)
    return below, log_p, (below * sharpness).add_(probabilities.amax(1).log_())


class Task(Protocol):
    """What a model is asked: an attack's goal and its gradient, and what rows and checks count, come from these three.

    :class:`Segmentation` is the one there is; its counts are scored in ``segrobust.analysis.metrics``. What knows
    classes besides: attacks by margins (``margins.py``, SEA's spherical loss, ASMA) and universal ones, predictions as
    the largest logit (``studies/bench.py``), void labels in rows and checks, and the hooks of training.
    """

    def goal(self, images: Tensor, labels: Tensor, targets: Tensor | None, targeted: bool, mask: Any = None) -> Goal:
        """What the attack of a batch is after: which pixels count, the logit gradient towards the goal, and which
        pixels are there. The public methods of :class:`Goal` are all that the engine calls.

        A call that is to keep pixels gives ``kept`` as well, of :meth:`Segmentation.goal`."""

    def counts(self, prediction: Tensor, labels: Tensor) -> list[dict[str, list[int]]]:
        """Per image the integers that its row stores and every score is computed from."""

    def at_goal(self, prediction: Tensor, labels: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pixels at the goal of an attack, and pixels that count, ``[N]`` integers each, on the CPU."""


@dataclass(frozen=True)
class Segmentation:
    """The task of naming every pixel's class; a :class:`Task`.

    num_classes: of the data; without it there is nothing to count.
    ignore_index: the label of void pixels, which have no influence.
    """

    num_classes: int | None = None
    ignore_index: int = 255

    def goal(
        self,
        images: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        targeted: bool,
        mask: Any = None,
        kept: Tensor | None = None,
    ) -> Goal:
        """Every valid pixel is to leave its label or, ``targeted``, to reach its target.

        Args:
            kept: ``[N, H, W]`` classes that pixels with a label and without a target are to keep; void: no matter.

        Raises:
            UserError: wrong shapes or types, values outside [0, 1], classes below 0, or targets where none are wanted.
        """
        check_images(images)
        if targeted != (targets is not None):
            raise UserError(f"targets: expected {'targets' if targeted else 'none'} for targeted={targeted}")
        if kept is not None and targets is None:
            raise UserError("kept: expected targets beside it, which the other pixels are to reach")
        every = {"labels": labels, "targets": targets, "kept": kept}
        given = {what: classes for what, classes in every.items() if classes is not None}
        highest = 0
        for what, classes in given.items():
            check_classes(classes, what, images, self.ignore_index)
            highest = max(highest, int(classes.masked_fill(classes == self.ignore_index, 0).max()))
        valid = self._valid(labels, targets)
        wanted = (labels if targets is None else targets).long()
        rest = None
        if kept is not None:
            rest = self._valid(labels, kept) & ~valid
            wanted, valid = torch.where(rest, kept.long(), wanted), valid | rest
        return Goal(wanted.masked_fill(~valid, 0), valid, targeted, highest, writable(mask, images), rest=rest)

    def counts(self, prediction: Tensor, labels: Tensor) -> list[dict[str, list[int]]]:
        """Per image the classes that occur, with their true positives, false positives and false negatives.

        Args:
            prediction, labels: class ids ``[N, H, W]``.
        """
        counts = confusion_counts(prediction, labels, self.num_classes, self.ignore_index)
        return [sparse_counts(*one) for one in zip(*counts, strict=True)]

    def at_goal(self, prediction: Tensor, labels: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pixels that are wrong or, with targets, at their target, and pixels that count: with a label and, with
        targets, a target. ``[N]`` integers each, on the CPU.

        Args:
            prediction: class ids ``[N, H, W]``; several may be of one image, where labels and targets have N = 1.
        """
        valid = self._valid(labels, targets)
        reached = (prediction != labels if targets is None else prediction == targets) & valid
        judged = valid.flatten(1).sum(1).expand(len(prediction))
        return torch.stack([reached.flatten(1).sum(1), judged]).cpu().unbind()

    def _valid(self, labels: Tensor, targets: Tensor | None) -> Tensor:
        valid = labels != self.ignore_index
        return valid if targets is None else valid & (targets != self.ignore_index)


def confusion_counts(
    prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255
) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, false positives and false negatives per class, over the pixels that are not void.

    Args:
        prediction: class ids [H, W] or [N, H, W]; at void pixels any value, without effect.
        label: class ids of the same shape; ``ignore_index`` (any integer, also one below ``num_classes``) is void.

    Returns:
        Three int64 tensors [K] or [N, K] on the CPU. fp[c]: predicted c, labelled otherwise; fn[c]: the reverse.

    Raises:
        UserError: a label outside [0, K) that is not void. ValueError: a prediction outside [0, K), or unequal shapes.
    """
    if prediction.shape != label.shape or label.ndim not in (2, 3):
        raise ValueError(f"expected two maps [H, W] or [N, H, W], got {[*prediction.shape]} and {[*label.shape]}")
    maps = label.reshape(-1, *label.shape[-2:]).long()
    count = len(maps)
    valid = maps != ignore_index
    truth = maps[valid]
    guess = prediction.reshape(maps.shape)[valid].long()
    _check_range(truth, guess, num_classes, ignore_index)
    offset = torch.arange(count, device=maps.device).mul(num_classes).view(-1, 1, 1).expand_as(maps)[valid]

    def per_class(ids: Tensor) -> Tensor:
        return torch.bincount(ids, minlength=count * num_classes).view(count, num_classes)

    tp = per_class((truth + offset)[truth == guess])
    fp = per_class(guess + offset) - tp
    fn = per_class(truth + offset) - tp
    shape = (*label.shape[:-2], num_classes)
    tp, fp, fn = torch.stack([tp, fp, fn]).cpu().view(3, *shape)
    return tp, fp, fn


def _check_range(truth: Tensor, guess: Tensor, num_classes: int, ignore_index: int) -> None:
    if truth.numel() == 0:
        return
    for value in (int(truth.min()), int(truth.max())):
        if not 0 <= value < num_classes:
            raise UserError(
                f"label {value} is neither a class (0 to {num_classes - 1}) nor void ({ignore_index}); "
                "check the data set's number of classes and its ignore_index"
            )
    if int(guess.min()) < 0 or int(guess.max()) >= num_classes:
        raise ValueError(f"predictions range from {int(guess.min())} to {int(guess.max())}, with {num_classes} classes")


def sparse_counts(tp: Tensor, fp: Tensor, fn: Tensor) -> dict[str, list[int]]:
    """The counts [K] of one image as the fields ``classes``, ``tp``, ``fp``, ``fn`` of its row."""
    classes = torch.nonzero(tp + fp + fn).flatten()
    fields = {"tp": tp, "fp": fp, "fn": fn}
    return {"classes": classes.tolist(), **{name: counts[classes].tolist() for name, counts in fields.items()}}
