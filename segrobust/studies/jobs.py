"""What a run consists of: the clean images, then bounded attacks at every radius, minimum-norm ones once."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segrobust.analysis.summary import CLEAN
from segrobust.attacks.base import Attack
from segrobust.attacks.registry import build_attack
from segrobust.core.errors import UserError
from segrobust.core.rows import Key, row_key
from segrobust.core.units import format_eps, parse_eps, usual_eps_near

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One call of an attack per batch; without an attack, the clean images.

    radii: of the rows it gives per image: one radius; none (None) for the clean images; none and then every budget
        for a minimum-norm attack, whose one search also keeps the worst images within each budget.
    """

    label: str
    attack: Attack | None = None
    radii: tuple[float | None, ...] = (None,)

    @property
    def minimum_norm(self) -> bool:
        return self.attack is not None and self.attack.minimum_norm

    @property
    def budgets(self) -> tuple[float, ...]:
        return tuple(eps for eps in self.radii if eps is not None)

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the rows per radius and image: that of the attack's answer, "", and its further candidates'."""
        return ("", *(self.attack.candidate_names() if self.attack else ()))

    def keys(self, image: int) -> list[Key]:
        """What tells this job's rows of one image from all others of the run."""
        about = {"attack": self.label, "norm": self.attack and self.attack.norm, "image": image}
        return [row_key({**about, "eps": eps, "candidate": name}) for eps in self.radii for name in self.candidates]

    def title(self, eps: float | None) -> str:
        return self.label if eps is None else f"{self.label} {format_eps(eps, self.attack.norm)}"

    @property
    def passes(self) -> int:
        """Forwards and backwards per image, those that are reported included."""
        return len(self.radii) * len(self.candidates) + (sum(self.attack.passes()) if self.attack else 0)


def plan_jobs(
    attacks: Sequence[Any],
    eps: Sequence[float | str],
    steps: int | None = None,
    defaults: Mapping | None = None,
    targeted: bool = False,
    norm: str | None = None,
) -> list[Job]:
    """The clean images, then per attack one job for every radius or, of a minimum-norm attack, one for all.

    Args:
        attacks: names, configs or attacks. A name may ask for its paper's settings: ``"cospgd:published"``.
        steps: overrides the number of steps of the attacks that have one.
        defaults: fields per attack name that the data set knows, such as the class counts of BalancedPGD; they
            replace only what an attack leaves at its own default.
        targeted: every attack is to reach the run's targets.
        norm: of the attacks that do not name their own.

    Raises:
        UserError: an attack that does not exist or has no targeted form, a targeted one in a run without a target, or
            a bounded one without a radius.
    """
    jobs = [Job(CLEAN)]
    labels: set[str] = set()
    for spec in attacks:
        base = _with_defaults(built(spec, norm, targeted), defaults or {})
        if steps is not None and hasattr(base, "steps"):
            base = build_attack(base, steps=steps)
        if base.targeted and not targeted:
            raise UserError(
                f"{base.name} is targeted, but the run has no target; give one, such as target='background'"
            )
        label = base.name + (":published" if _is_published(spec) else "")
        if label in labels:
            label = next(name for n in range(2, 1000) if (name := f"{label}#{n}") not in labels)
        labels.add(label)
        jobs += _jobs(label, base, eps)
    if any(job.attack and job.attack.norm == "Linf" for job in jobs):
        _tell_unusual(eps)
    return list(dict.fromkeys(jobs))


def built(spec: Any, norm: str | None = None, targeted: bool = False) -> Attack:
    """The attack in the run's norm, unless it names its own, and targeted where the run is.

    Raises:
        UserError: no such attack, or it has no such form.
    """
    fields = {"targeted": True} if targeted else {}
    if norm is not None and not _names_norm(spec):
        fields["norm"] = norm
    return build_attack(spec, **fields)


def _names_norm(spec: Any) -> bool:
    if isinstance(spec, str):
        return re.search(r"[(,]\s*norm\s*=", spec) is not None
    return isinstance(spec, Attack) or (isinstance(spec, Mapping) and "norm" in spec)


def _tell_unusual(eps: Sequence[float | str]) -> None:
    for radius in eps:
        if usual := usual_eps_near(radius):
            _LOG.warning("eps %s is %.4g/255; if you mean %s, write it so", radius, 255 * parse_eps(radius), usual)


def _jobs(label: str, attack: Attack, eps: Sequence[float | str]) -> list[Job]:
    if attack.minimum_norm:
        budgets = sorted({parse_eps(radius, attack.norm) for radius in eps})
        return [Job(label, attack, (None, *budgets))]
    if not eps:
        raise UserError(f"{attack.name} needs a radius; give eps, such as eps=['4/255']")
    bounded = [build_attack(attack, eps=radius) for radius in eps]
    return [Job(label, one, (one.eps,)) for one in bounded]


def _with_defaults(attack: Attack, defaults: Mapping) -> Attack:
    own = {field.name: field.default for field in dataclasses.fields(attack)}
    given = defaults.get(attack.name) or defaults.get(attack.defaults_of, {})
    return build_attack(
        attack, **{name: value for name, value in given.items() if getattr(attack, name, None) == own.get(name)}
    )


def _is_published(spec: Any) -> bool:
    if isinstance(spec, Mapping):
        return spec.get("preset") == "published" or str(spec.get("type")).endswith(":published")
    return isinstance(spec, str) and spec.endswith(":published")
