"""One perturbation for all images of a data set: fitted on some images, measured on others.

    perturbation = UniversalPerturbation(eps="8/255")
    fitted = perturbation.fit(model, batches)                       # batches: a list of (images, labels)
    attacked, covered = perturbation.apply(fitted, images, seeds)   # covered: pixels that do not count

It is found, as a patch is, by ascent on one image, the canvas, with all values in [0, 1] and grey as its start. A patch
is its canvas; a perturbation is twice the way from grey to the canvas, so that changes from -1 to 1 have room.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from segrobust.attacks import weights
from segrobust.attacks.configured import Configured
from segrobust.attacks.gradient import Engine
from segrobust.attacks.inputs import as_batch
from segrobust.attacks.segmentation import Segmentation
from segrobust.core.draws import Draws
from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of
from segrobust.core.threats import THREATS
from segrobust.core.units import DEFAULT_EPS
from segrobust.models.segmenter import frozen_eval

GREY = 0.5
MOMENTUM = 0.9
WEIGHTS = {
    one.__name__: one for one in (weights.jensen_shannon, weights.ce, weights.cospgd, weights.segpgd, weights.masked)
}


class Applied(NamedTuple):
    """Attacked images ``[N, 3, H, W]`` in [0, 1], and the pixels ``[N, H, W]`` bool that lie under a patch."""

    images: Tensor
    covered: Tensor


@dataclass(frozen=True, kw_only=True)
class Universal(Configured, ABC):
    """Base of what is fitted once for many images.

    Steepest steps along the momentum of normalised gradients (Dong et al., 2018, arXiv 1710.06081, equation 6), each
    summed over the images of a batch; the step size falls from the whole radius to zero along a cosine.

    Args:
        epochs: passes over the images that it is fitted on, one forward and one backward per image each.
        weight: of every pixel's cross-entropy, a name in ``WEIGHTS``; see :mod:`segrobust.attacks.weights`.
    """

    epochs: int = 30
    weight: str = "jensen_shannon"

    norm: ClassVar[str | None] = None
    eps: ClassVar[float | None] = None
    covers: ClassVar[bool] = False  # pixels, which then do not count

    def __post_init__(self) -> None:
        self._whole(epochs=1)
        self._one_of(weight=tuple(WEIGHTS))

    @property
    @abstractmethod
    def title(self) -> str:
        """What tables call it, told from others of its kind."""

    def _titled(self, title: str) -> str:
        given = {"epochs": self.epochs, "weight": self.weight}
        own = [f"{field}={value}" for field, value in given.items() if value != getattr(Universal, field)]
        return f"{title} ({', '.join(own)})" if own else title

    @property
    @abstractmethod
    def ball(self) -> tuple[str, float]:
        """Norm and radius, around grey, of the canvases that are allowed."""

    @abstractmethod
    def size(self, images: Tensor) -> tuple[int, int]:
        """(height, width) of the canvas for images ``[N, 3, H, W]``."""

    @abstractmethod
    def fitted(self, canvas: Tensor) -> Tensor:
        """What the canvas ``[3, h, w]`` stands for."""

    @abstractmethod
    def apply(self, fitted: Tensor, images: Tensor, seeds: Sequence[int]) -> Applied:
        """Images ``[N, 3, H, W]`` with what was fitted, clipped to [0, 1]; the seeds decide random places, one per
        image. UserError: it does not fit images of this size."""

    @abstractmethod
    def collect(self, gradient: Tensor, fitted: Tensor, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """The gradient ``[3, h, w]`` with respect to what was fitted, from that with respect to ``apply``'s images."""

    def fit(
        self,
        model: torch.nn.Module,
        batches: Sequence[tuple[Tensor, Tensor]],
        *,
        ignore_index: int = 255,
        seed: int = 0,
    ) -> Tensor:
        """The perturbation ``[3, H, W]`` or patch ``[3, h, w]`` that makes most pixels of the batches wrong.

        Args:
            model: maps images to logits ``[N, K, H, W]`` at image size (a :class:`segrobust.Segmenter`).
            batches: of images ``[N, 3, H, W]`` in [0, 1] and labels ``[N, H, W]``, on the model's device.
            seed: of the order of the batches and of random places.

        Raises:
            UserError: no batch, images that it cannot be fitted on, or what an attack refuses of images and labels.
        """
        data, task = [as_batch(*batch)[:2] for batch in batches], Segmentation(ignore_index=ignore_index)
        if not data:
            raise UserError(f"{self.name}: expected at least one batch of images to fit on, got none")
        canvas = self._grey(data[0][0])
        for images, labels in data:
            task.goal(images, labels, None, False)
            self.apply(canvas[0], images[:1], [0])
        with frozen_eval(model):
            return self.fitted(self._ascend(model, canvas, data, task, seed)[0])

    def control(self, images: Tensor, seed: int = 0) -> Tensor:
        """Noise in place of what is fitted, of full size: random signs (L2: directions), a patch of random colours."""
        grey = self._grey(images)
        noise = Draws.of([seed_of(seed, "universal noise")], grey.device).normal(*grey.shape[1:])
        return self.fitted(self._moved(grey, noise, grey, 1.0)[0])

    def _grey(self, images: Tensor) -> Tensor:
        return images.new_full((1, 3, *self.size(images)), GREY, dtype=torch.float32)

    def _moved(self, canvas: Tensor, direction: Tensor, grey: Tensor, share: float) -> Tensor:
        norm, eps = self.ball
        threat, radius = THREATS[norm], grey.new_full((1,), eps)
        return threat.project(canvas + threat.step(canvas, direction, share * radius), grey, radius)

    def _ascend(
        self, model: torch.nn.Module, grey: Tensor, data: list[tuple[Tensor, Tensor]], task: Segmentation, seed: int
    ) -> Tensor:
        canvas, momentum, steps = grey, torch.zeros_like(grey), self.epochs * len(data)
        shuffled = torch.Generator().manual_seed(seed_of(seed, "universal order"))
        for step in range(steps):
            if step % len(data) == 0:
                order = torch.randperm(len(data), generator=shuffled).tolist()
            images, labels = data[order[step % len(data)]]
            images = images.float().clamp(0, 1)
            fitted, progress = self.fitted(canvas[0]), step / steps
            seeds = [seed_of(seed, "universal places", step, n) for n in range(len(images))]
            attacked, covered = self.apply(fitted, images, seeds)
            goal = task.goal(attacked, labels.masked_fill(covered, task.ignore_index), None, False)
            gradient = Engine(model, goal).gradient(attacked, WEIGHTS[self.weight], progress).gradient
            gradient = self.collect(gradient, fitted, images, seeds)
            momentum = MOMENTUM * momentum + gradient / gradient.abs().mean().clamp_min(torch.finfo().tiny)
            canvas = self._moved(canvas, momentum, grey, weights.cosine(1.0, 0.0, progress))
        return canvas


@dataclass(frozen=True, kw_only=True)
class UniversalPerturbation(Universal):
    """One change of every pixel for all images of one size (Moosavi-Dezfooli et al., 2017, arXiv 1610.08401; of
    segmenters, Metzen et al., 2017, arXiv 1704.05712).

    Args:
        norm: ``"Linf"`` or ``"L2"``.
        eps: radius in image units, or a string such as ``"8/255"``.
    """

    norm: str = "Linf"
    eps: float | str = DEFAULT_EPS

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of(norm=("Linf", "L2"))
        self._image_units("eps")

    @property
    def title(self) -> str:
        return self._titled("perturbation")

    @property
    def ball(self) -> tuple[str, float]:
        return self.norm, self.eps / 2

    def size(self, images: Tensor) -> tuple[int, int]:
        return tuple(images.shape[2:])

    def fitted(self, canvas: Tensor) -> Tensor:
        return (canvas - GREY) * 2

    def apply(self, fitted: Tensor, images: Tensor, seeds: Sequence[int]) -> Applied:
        if fitted.shape != images.shape[1:]:
            expected, got = ("x".join(map(str, shape[-2:])) for shape in (fitted.shape, images.shape))
            raise UserError(
                f"{self.name}: one perturbation serves images of one size, {expected}, got one of {got}; "
                "resize them in the data's pipeline or take UniversalPatch"
            )
        return Applied((images + fitted).clamp(0, 1), torch.zeros_like(images[:, 0], dtype=torch.bool))

    def collect(self, gradient: Tensor, fitted: Tensor, images: Tensor, seeds: Sequence[int]) -> Tensor:
        moved = images + fitted
        return gradient.mul((moved >= 0) & (moved <= 1)).sum(0)
