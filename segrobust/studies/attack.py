"""Images under attack: bounded attacks at every radius, minimum-norm ones once, on the model itself or a surrogate."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from segrobust.attacks.base import Attack, AttackResult
from segrobust.attacks.members import Ensemble
from segrobust.attacks.registry import build_attack, config_of
from segrobust.core.errors import UserError
from segrobust.core.rows import ATTACK, Condition
from segrobust.core.units import parse_eps, usual_eps_near
from segrobust.models.digests import model_identity
from segrobust.models.segmenter import Segmenter
from segrobust.studies.base import Perturbed, Study, free_name, settings_key
from segrobust.studies.bench import Bench, Group

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class AttackStudy(Study):
    """One call of an attack per group.

    name: of its conditions; tells it from other settings of the same attack in a run.
    radii: of its conditions: one radius; of a minimum-norm attack none (None) and then every budget, since its one
        search also keeps the worst images within each budget.
    surrogate: attacked in place of the measured model (transfer). Where such images do more harm than those attacked
        on the model itself, the model's gradients are masked.
    """

    name: str
    attack: Attack
    radii: tuple[float | None, ...]
    surrogate: Segmenter | None = None

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """Per radius that of the attack's answer, then those of its further candidates."""
        given = {
            "norm": self.attack.norm,
            "surrogate": self.surrogate and self.surrogate.name,
            "control": self.attack.control,
            "fields": fields_of(self.attack, self.surrogate),
        }
        candidates = ("", *self.attack.candidate_names())
        return tuple(
            Condition(ATTACK, self.name, eps=eps, candidate=c, **given) for eps in self.radii for c in candidates
        )

    @property
    def budgets(self) -> tuple[float, ...]:
        return tuple(eps for eps in self.radii if eps is not None)

    @property
    def passes(self) -> int:
        return len(self.conditions) + sum(self.attack.passes())

    @property
    def logits_kept(self) -> int:
        return max(attack.logits_kept for attack in _with_members(self.attack))

    @property
    def made_of(self) -> tuple[Any, ...]:
        return (*_with_members(self.attack), *([self.surrogate] if self.surrogate else []))

    def perturbed(self, bench: Bench, group: Group) -> Iterator[Perturbed]:
        seeds = bench.seeds(group)
        with bench.attacking(seeds):
            result = self.attack(
                bench.attacked(seeds, self.surrogate),
                group.images,
                group.labels,
                task=bench.task,
                targets=group.targets,
                kept=group.kept,
                seeds=seeds,
                budgets=self.budgets,
                mask=bench.mask,
            )
        for condition, images, own in zip(self.conditions, *self._answers(result), strict=True):
            distance = self.attack.threat.distance(images - group.images)
            passes = {"forwards": result.forwards, "backwards": result.backwards}
            extra = _per_image({**passes, "distance": distance, **own})
            if not condition.candidate and self.surrogate is None and result.trace:
                traces = result.trace.per_image()
                extra = [one | ({"trace": trace} if trace else {}) for one, trace in zip(extra, traces, strict=True)]
            yield Perturbed(condition, images, extra)

    def _answers(self, result: AttackResult) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Images, and what a row has more, in the order of the conditions."""
        candidates = [one.images for one in result.candidates]
        if not self.attack.minimum_norm:
            return [result.images, *candidates], [{}] * (1 + len(candidates))
        measured = {"error_of_correct": result.error_of_correct, "distance_8bit": result.distance_8bit}
        own = {"found": result.found} | {name: one for name, one in measured.items() if one is not None}
        within = {one.eps: one.images for one in result.candidates if not one.name}
        return [result.images, *(within[eps] for eps in self.budgets)], [own, *[{} for _ in self.budgets]]


def fields_of(attack: Attack, surrogate: Segmenter | None = None) -> dict[str, Any]:
    """What decides an attack's rows besides norm and radius, as JSON values."""
    fields = {name: value for name, value in attack.fields().items() if name not in ("norm", "eps")}
    return {**fields, **({"surrogate": model_identity(surrogate)} if surrogate else {})}


def _with_members(attack: Attack) -> Iterator[Attack]:
    """The attack and, of an ensemble, those it is made of."""
    yield attack
    for member in attack.members() if isinstance(attack, Ensemble) else ():
        yield from _with_members(member)


def _per_image(columns: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    listed = {name: values.tolist() for name, values in columns.items()}
    return [dict(zip(listed, values, strict=True)) for values in zip(*listed.values(), strict=True)]


def plan_attacks(
    attacks: Sequence[Any],
    eps: Sequence[float | str],
    *,
    norm: str | None = None,
    steps: int | None = None,
    defaults: Mapping | None = None,
    targeted: bool = False,
    surrogate: Segmenter | None = None,
    known: Sequence[Condition] = (),
) -> list[AttackStudy]:
    """Per attack one study for every radius or, of a minimum-norm attack, one for all.

    Args:
        attacks, eps, norm, steps, surrogate: as in :class:`segrobust.runs.settings.Settings`.
        defaults: fields per attack name that the data set knows, such as the class counts of BalancedPGD; they
            replace only what an attack leaves at its own default.
        targeted: every attack is to reach the run's targets.
        known: conditions of the run so far; an attack with the same settings keeps its name there.

    Raises:
        UserError: an attack that does not exist or has no targeted form, a targeted one in a run without a target, a
            bounded one without a radius, or a minimum-norm one on a surrogate.
    """
    names = {settings_key(one.norm, one.fields): one.name for one in known if one.study == ATTACK}
    studies: list[AttackStudy] = []
    for spec in attacks:
        attack = _with_defaults(built(spec, norm, targeted), defaults or {})
        if steps is not None and hasattr(attack, "steps"):
            attack = build_attack(attack, steps=steps)
        if surrogate and attack.minimum_norm:
            raise UserError(
                f"{attack.name} stops at the boundary of the model it attacks, {surrogate.name}, not at that of the "
                "evaluated one; transfer takes bounded attacks, such as cospgd"
            )
        key = settings_key(attack.norm, fields_of(attack, surrogate))
        if key not in names:
            published = ":published" if _given(spec).get("preset") else ""
            wanted = attack.name + published + (f"@{surrogate.name}" if surrogate else "")
            names[key] = free_name(wanted, set(names.values()))
        studies += _at_radii(names[key], attack, eps, surrogate)
    if any(study.attack.norm == "Linf" for study in studies):
        _warn_of_unusual(eps)
    return list({study.conditions: study for study in studies}.values())


def built(spec: Any, norm: str | None = None, targeted: bool = False) -> Attack:
    """The attack in the run's norm, unless it names its own, and targeted where the run is.

    Raises:
        UserError: no such attack, it has no such form, or it is targeted in a run without a target.
    """
    fields = {"targeted": True} if targeted else {}
    if norm is not None and not isinstance(spec, Attack) and "norm" not in _given(spec):
        fields["norm"] = norm
    attack = build_attack(spec, **fields)
    if attack.targeted and not targeted:
        raise UserError(f"{attack.name} is targeted, but the run has no target; give one, such as target='background'")
    return attack


def _given(spec: Any) -> dict[str, Any]:
    """Type, preset and fields that a name or config says; nothing of an attack or its class."""
    return config_of(spec) if isinstance(spec, str | Mapping) else {}


def _at_radii(name: str, attack: Attack, eps: Sequence[float | str], surrogate: Segmenter | None) -> list[AttackStudy]:
    if attack.minimum_norm:
        budgets = sorted({parse_eps(radius, attack.norm) for radius in eps})
        return [AttackStudy(name, attack, (None, *budgets))]
    if not eps:
        raise UserError(f"{attack.name} needs a radius; give eps, such as eps=['4/255']")
    bounded = [build_attack(attack, eps=radius) for radius in eps]
    return [AttackStudy(name, one, (one.eps,), surrogate) for one in bounded]


def _warn_of_unusual(eps: Sequence[float | str]) -> None:
    for radius in eps:
        if usual := usual_eps_near(radius):
            _LOG.warning("eps %s is %.4g/255; if you mean %s, write it so", radius, 255 * parse_eps(radius), usual)


def _with_defaults(attack: Attack, defaults: Mapping) -> Attack:
    own = {field.name: field.default for field in dataclasses.fields(attack)}
    given = defaults.get(attack.name) or defaults.get(attack.defaults_of, {})
    return build_attack(
        attack, **{name: value for name, value in given.items() if getattr(attack, name, None) == own.get(name)}
    )


def strongest(studies: Sequence[Study], summary: Sequence[Mapping[str, Any]]) -> tuple[AttackStudy, Condition] | None:
    """The attack that lowers aAcc most (targeted: brings most pixels to their target) at the middle of the radii.

    Of minimum-norm attacks alone, the one with the smallest median distance, without a radius; None where no attack
    tries.

    Args:
        summary: the records of the run.
    """
    real = [one for one in studies if isinstance(one, AttackStudy) and not one.attack.control]
    if not real:
        return None
    records = {(one["name"], one["eps"]): one for one in summary if one["study"] == ATTACK}
    bounded = [study for study in real if not study.attack.minimum_norm]
    if not bounded:
        medians = [records[study.name, None]["median_distance"] for study in real]
        nearest = min(range(len(real)), key=lambda n: math.inf if medians[n] is None else medians[n])
        return real[nearest], real[nearest].conditions[0]
    radii = sorted({study.radii[0] for study in bounded})
    middle = radii[len(radii) // 2]

    def left(study: AttackStudy) -> float:
        record = records[study.name, middle]
        return record["aAcc"] if record.get("apsr") is None else -record["apsr"]

    study = min((study for study in real if middle in study.radii), key=left)
    return study, next(one for one in study.conditions if one.eps == middle and not one.candidate)
