"""What a run consists of: the clean images, then every attack at every radius."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segrobust.attacks.base import Attack
from segrobust.attacks.registry import build_attack
from segrobust.evaluation.summary import CLEAN
from segrobust.units import format_eps


@dataclass(frozen=True)
class Job:
    """One attack at one radius; without an attack, the clean images."""

    label: str
    attack: Attack | None = None

    @property
    def eps(self) -> float | None:
        return self.attack.eps if self.attack else None

    @property
    def title(self) -> str:
        return f"{self.label} {format_eps(self.eps, self.attack.norm)}" if self.attack else self.label

    @property
    def passes(self) -> int:
        """Forwards and backwards per image, the one that is reported included."""
        return 1 + (sum(self.attack.passes()) if self.attack else 0)


def plan_jobs(
    attacks: Sequence[Any], eps: Sequence[float | str], steps: int | None = None, defaults: Mapping | None = None
) -> list[Job]:
    """The clean images, then every attack at every radius.

    Args:
        attacks: names, configs or attacks. A name may ask for its paper's settings: ``"cospgd:published"``.
        steps: overrides the number of steps of the attacks that have one.
        defaults: fields per attack name that the data set knows, such as the class counts of BalancedPGD; they
            replace only what an attack leaves at its own default.
    """
    jobs = [Job(CLEAN)]
    labels: set[str] = set()
    for spec in attacks:
        base = _with_defaults(build_attack(spec), defaults or {})
        if steps is not None and hasattr(base, "steps"):
            base = build_attack(base, steps=steps)
        label = base.name + (":published" if _is_published(spec) else "")
        if label in labels:
            label = next(name for n in range(2, 1000) if (name := f"{label}#{n}") not in labels)
        labels.add(label)
        jobs += [Job(label, build_attack(base, eps=radius)) for radius in eps]
    return list(dict.fromkeys(jobs))


def _with_defaults(attack: Attack, defaults: Mapping) -> Attack:
    own = {field.name: field.default for field in dataclasses.fields(attack)}
    given = defaults.get(attack.name, {})
    return build_attack(
        attack, **{name: value for name, value in given.items() if getattr(attack, name, None) == own.get(name)}
    )


def _is_published(spec: Any) -> bool:
    if isinstance(spec, Mapping):
        return spec.get("preset") == "published" or str(spec.get("type")).endswith(":published")
    return isinstance(spec, str) and spec.endswith(":published")
