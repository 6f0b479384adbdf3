"""One perturbation or one patch for all images: fitted on one split, measured on another, and noise of its size."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from segrobust.attacks.base import Attack
from segrobust.attacks.patch import UniversalPatch
from segrobust.attacks.universal import Universal, UniversalPerturbation
from segrobust.core.attack_specs import parse_spec
from segrobust.core.digest import config_sha256
from segrobust.core.errors import UserError, unknown_name
from segrobust.core.registry import known_name
from segrobust.core.rows import INPUT, UNIVERSAL, Condition
from segrobust.core.threats import THREATS
from segrobust.datasets.classes import check_class_order
from segrobust.datasets.source import Source
from segrobust.models.digests import tensor_sha256
from segrobust.studies.base import Perturbed, Study, free_name, settings_key
from segrobust.studies.bench import Bench, Group

KINDS: dict[str, type[Universal]] = {"perturbation": UniversalPerturbation, "patch": UniversalPatch}
RINGS = (8, 16, 32, 64)  # pixels from the patch's edge, the largest of each ring; one more ring holds the rest


@dataclass(eq=False)
class UniversalStudy(Study):
    """A universal perturbation or patch, and its control: noise of the same size at the same places.

    Pixels under a patch do not count, and rows tell how many are right in rings around it; those of the control tell
    what covering a place does where no harm is meant.

    universal: what is fitted, with the run's seed.
    source: the images that it is fitted on, others than those that are measured.
    batch_size: of the fit, which decides its result; the run's own decides nothing here.
    name: of its conditions; empty: the title of what is fitted.
    """

    universal: Universal
    source: Source
    batch_size: int = 8
    name: str = ""
    passes = 2
    logits_kept = Attack.logits_kept
    _fitted: Tensor | None = field(default=None, init=False, repr=False)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What decides the rows besides norm and radius, as JSON values."""
        fields = {name: value for name, value in self.universal.fields().items() if name not in ("norm", "eps")}
        samples = (self.source[i] for i in range(len(self.source)))
        data = [tensor_sha256(part) for sample in samples for part in (sample.image, sample.label)]
        fields |= {"fit_images": len(self.source), "fit_sha256": config_sha256(data), "fit_batch": self.batch_size}
        return fields | ({"rings": [*RINGS, None]} if self.universal.covers else {})

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """What was fitted, and the control."""
        given = {"norm": self.universal.norm, "eps": self.universal.eps, "fields": self.fields}
        title = self.name or self.universal.title
        return Condition(UNIVERSAL, title, **given), Condition(UNIVERSAL, f"noise {title}", control=True, **given)

    @property
    def made_of(self) -> tuple[Any, ...]:
        return (self.universal,)

    @property
    def fit_passes(self) -> int:
        return 2 * self.universal.epochs * len(self.source)

    def fit(self, bench: Bench) -> None:
        """Fit it on the source's images, by their order in batches of one size.

        Raises:
            UserError: the run has targets or a mask, which it knows nothing of, or the images or classes do not fit.
        """
        for what in ("target", "mask"):
            if getattr(bench, what) is not None:
                raise UserError(f"{self.universal.name} knows of no {what}; leave it or the {what} out of this run")
        check_class_order(self.source.class_names, bench.model.class_names, "the model")
        fitting = dataclasses.replace(bench, metric_size=INPUT)
        batches = []
        for start in range(0, len(self.source), self.batch_size):
            ids = range(start, min(start + self.batch_size, len(self.source)))
            groups = fitting.groups({i: self.source[i] for i in ids})
            batches += [(group.images, group.labels) for group in groups]
        with bench.attacking([bench.seed]):
            model, void = bench.attacked([bench.seed]), self.source.ignore_index
            self._fitted = self.universal.fit(model, batches, ignore_index=void, seed=bench.seed)

    def perturbed(self, bench: Bench, group: Group) -> Iterator[Perturbed]:
        if self._fitted is None:
            self.fit(bench)
        control = self.universal.control(group.images, bench.seed)
        for condition, change in zip(self.conditions, (self._fitted, control), strict=True):
            images, covered = self.universal.apply(change, group.images, bench.seeds(group))
            around = {"void": covered, "regions": rings(covered)} if self.universal.covers else {}
            yield Perturbed(condition, images, self._distances(images - group.images), **around)

    def _distances(self, change: Tensor) -> list[dict[str, float]]:
        """Per image; a patch has no radius to keep."""
        if self.universal.norm is None:
            return [{}] * len(change)
        return [{"distance": distance} for distance in THREATS[self.universal.norm].distance(change).tolist()]


def rings(covered: Tensor) -> Tensor:
    """How far a patch's effect reaches: the ring of every pixel, ``[N, H, W]`` int64, by its distance to the nearest
    covered one: 0 from 1 to 8 pixels (and under the patch), 1 up to 16, ..., 4 beyond 64.

    Args:
        covered: ``[N, H, W]`` bool, the pixels under the patch, at least one per image.
    """
    free = (~covered).to("cpu", torch.uint8).numpy()
    away = np.stack([cv2.distanceTransform(one, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for one in free])
    return torch.from_numpy(np.searchsorted(RINGS, away)).to(covered.device)


def plan_universal(
    specs: Sequence[str],
    eps: Sequence[float | str],
    source: Source,
    norm: str | None = None,
    known: Sequence[Condition] = (),
) -> list[UniversalStudy]:
    """One study per patch, and per perturbation and radius.

    Args:
        specs: ``"perturbation"`` and ``"patch"``, with fields in parentheses or without: ``"patch(place=random)"``.
        eps: radii of the perturbations that do not name their own.
        source: what all are fitted on.
        norm: of the perturbations that do not name their own.
        known: conditions of the run so far; what has the same settings keeps its name there, other settings get one.

    Raises:
        UserError: neither of the two, an unknown field, a value out of range, or a perturbation without a radius.
    """
    studies = []
    for spec in specs:
        given = parse_spec(spec)
        cls = KINDS[known_name("universal attack", given.pop("type"), KINDS)]
        fields = [one.name for one in dataclasses.fields(cls)]
        for name in given:
            if name not in fields:
                raise unknown_name(f"field of {cls.__name__}", name, fields)
        if cls is UniversalPatch:
            studies.append(UniversalStudy(cls(**given), source))
            continue
        if not eps and "eps" not in given:
            raise UserError("a universal perturbation needs a radius; give eps, such as eps=['8/255']")
        given = ({} if norm is None else {"norm": norm}) | given
        studies += [UniversalStudy(cls(**{"eps": one} | given), source) for one in eps or [given["eps"]]]
    names = {
        settings_key(one.norm, one.fields): one.name for one in known if one.study == UNIVERSAL and not one.control
    }
    for study in studies:
        key = settings_key(study.universal.norm, study.fields)
        taken = {name for (norm, _), name in names.items() if norm == study.universal.norm}
        study.name = names.setdefault(key, free_name(study.universal.title, taken))
    return list({study.conditions: study for study in studies}.values())
