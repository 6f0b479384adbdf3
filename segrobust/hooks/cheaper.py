"""An attack in training for less: in lower precision, on smaller images, from where it ended at the image's last visit.

They change what the attack finds, not what it promises: images in the ball and in the box, at full size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segrobust.attacks import Attack, AttackResult
from segrobust.core.errors import UserError, unknown_name
from segrobust.core.precision_names import PRECISIONS
from segrobust.models.precision import check_precision, computing_in, float32_unless_autocast

# what leaves pixels where they are, or moves them by what it says in the metainfo
FOLLOWED = ("LoadPair", "LoadImageFromFile", "LoadAnnotations", "ReadImage", "ReadLabel", "Resize", "RandomFlip",
            "PhotoMetricDistortion", "PackSegInputs")  # fmt: skip
FLIPPED = {"horizontal": (-1,), "vertical": (-2,), "diagonal": (-2, -1)}


class AttackForm:
    """How the attack of an :class:`AdversarialTrainingHook` runs, whose arguments these are.

    Raises:
        UserError: a value outside its range, or a form that the attack cannot take.
    """

    def __init__(
        self, attack: Attack, error_interval: int, precision: str | None, scale: float, keep_perturbations: bool
    ) -> None:
        if isinstance(error_interval, bool) or not isinstance(error_interval, int) or error_interval < 1:
            raise UserError(f"AdversarialTrainingHook: expected error_interval to be an integer >= 1, got "
                            f"{error_interval!r}")  # fmt: skip
        check_forms(attack, precision, scale, keep_perturbations)
        self.error_interval = error_interval
        self.precision, self.scale = precision, scale
        self.kept = KeptPerturbations() if keep_perturbations else None

    def check(self, runner: Any, device: torch.device) -> None:
        """UserError: before training, a device or data that the form does not fit."""
        if self.precision is not None:
            check_precision(self.precision, device)
        if self.kept is not None:
            check_followed(runner)

    def measures(self, attack: Attack, done: int) -> bool:
        """Whether the answer is measured where that takes a forward; ``done``: iterations since the first attack."""
        return not attack.final_forward_is_optional or done % self.error_interval == 0

    def computing(self, device: torch.device) -> AbstractContextManager:
        """Inside, passes are in the attack's precision."""
        return float32_unless_autocast(device) if self.precision is None else computing_in(self.precision, device)

    def attacked(
        self, attack: Attack, model: torch.nn.Module, images: Tensor, labels: Tensor, samples: Sequence[Any],
        **call: Any,
    ) -> tuple[AttackResult, Tensor]:  # fmt: skip
        """Attack images of one size, from what was kept of them; what :func:`attacked_at` returns."""
        if self.kept is not None:
            call["start"] = self.kept.starts(samples, smaller(images, self.scale))
        return attacked_at(attack, self.scale, model, images, labels, **call)

    def keep(self, samples: Sequence[Any], change: Tensor) -> None:
        """Begin there at the next visit of these images, where perturbations are kept."""
        if self.kept is not None:
            self.kept.keep(samples, change)


def attacked_at(attack: Attack, scale: float, model: torch.nn.Module, images: Tensor, labels: Tensor,
                **call: Any) -> tuple[AttackResult, Tensor]:  # fmt: skip
    """Attack a batch at a share of its height and width.

    The smaller images are averages over pixels, their labels those of the nearest pixel. The change is resized
    bilinearly and put back into ball and box.

    Args:
        scale: in (0, 1]; 1: the attack as it is.
        images, labels: ``[N, 3, H, W]`` in [0, 1] and ``[N, H, W]``.
        call: what else the attack is called with; a ``start`` is as large as the smaller images.

    Returns:
        The result, whose images are of full size and whose ``pixel_error`` is that of the smaller ones, and the change
        of the smaller ones.
    """
    if scale == 1:
        result = attack(model, images, labels, **call)
        return result, result.images - images
    small = smaller(images, scale)
    nearest = F.interpolate(labels.unsqueeze(1).float(), small.shape[2:], mode="nearest-exact").squeeze(1).long()
    result = attack(model, small, nearest, **call)
    change = result.images - small
    points = images + F.interpolate(change, images.shape[2:], mode="bilinear")
    points = attack.threat.project(points, images, images.new_full((len(images),), attack.eps))
    return dataclasses.replace(result, images=points, distance=attack.threat.distance(points - images)), change


def smaller(images: Tensor, scale: float) -> Tensor:
    """Images ``[N, 3, H, W]`` at a share of their height and width."""
    if scale == 1:
        return images
    size = [max(1, round(scale * side)) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True).clamp_(0, 1)


class KeptPerturbations:
    """What the attack changed on every image at its last visit, by path, in half precision and unflipped (as in ATTA:
    Zheng et al., 2020, arXiv 1912.11969).

    Six bytes per pixel of the data set, in memory and in every checkpoint.
    """

    def __init__(self) -> None:
        self.changes: dict[str, Tensor] = {}

    def starts(self, samples: Sequence[Any], images: Tensor) -> Tensor:
        """Where the attack of ``images`` ``[N, 3, H, W]`` begins; NaN for an image that was not seen at this size."""
        starts = torch.full_like(images, torch.nan)
        for start, sample, image in zip(starts, samples, images, strict=True):
            change = self.changes.get(sample.img_path)
            if change is not None and change.shape == image.shape:
                start.copy_(image + change.to(image).flip(_flips(sample)))
        return starts

    def keep(self, samples: Sequence[Any], changes: Tensor) -> None:
        for sample, change in zip(samples, changes, strict=True):
            self.changes[sample.img_path] = change.flip(_flips(sample)).half().cpu()


def _flips(sample: Any) -> tuple[int, ...]:
    return FLIPPED[sample.flip_direction] if sample.get("flip") else ()


def check_forms(attack: Attack, precision: str | None, scale: float, keeps: bool) -> None:
    """UserError: a form that there is not, or that the attack cannot take."""
    if precision is not None and precision not in PRECISIONS:
        raise unknown_name("precision", str(precision), PRECISIONS)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= 1:
        raise UserError(f"AdversarialTrainingHook: expected 0 < scale <= 1, got {scale!r}")
    if scale < 1 and attack.minimum_norm:
        raise UserError(f"AdversarialTrainingHook: what {attack.name} finds on a smaller image has another norm at "
                        "full size; leave scale out, or take an attack with a radius")  # fmt: skip
    if not isinstance(keeps, bool):
        raise UserError(f"AdversarialTrainingHook: expected keep_perturbations to be True or False, got {keeps!r}")
    if keeps and not attack.takes_start:
        raise UserError(f"AdversarialTrainingHook: {attack.name} does not begin at given points; leave "
                        "keep_perturbations out, or take CEPGD and its kind")  # fmt: skip


def check_followed(runner: Any) -> None:
    """UserError: a training in which a kept perturbation would lie on other pixels, or its image elsewhere."""
    if runner.world_size > 1:
        raise UserError("keep_perturbations: an image comes to another process in every epoch; start one process, or "
                        "leave it out")  # fmt: skip
    pipeline = getattr(runner.train_dataloader.dataset, "pipeline", None)
    if pipeline is None:
        raise UserError("keep_perturbations: the training data has no pipeline that tells what it does to an image; "
                        "leave it out")  # fmt: skip
    names = [type(transform).__name__ for transform in pipeline.transforms]
    moves = [name for name in names if name not in FOLLOWED]
    if moves or names.count("RandomFlip") > 1:
        found = moves[0] if moves else "several"
        raise UserError("keep_perturbations follows an image through one RandomFlip alone, and the training pipeline "
                        f"has {found}; take it out, or leave keep_perturbations out")  # fmt: skip
    needed = ("img_path", *(("flip", "flip_direction") if "RandomFlip" in names else ()))
    for packing in (one for one in pipeline.transforms if type(one).__name__ == "PackSegInputs"):
        if missing := [key for key in needed if key not in packing.meta_keys]:
            raise UserError(f"keep_perturbations needs {', '.join(needed)} of every image, and PackSegInputs(meta_keys="
                            f"...) of the training pipeline leaves out {', '.join(missing)}; add what is missing, or "
                            "leave meta_keys out")  # fmt: skip
