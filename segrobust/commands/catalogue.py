"""What there is to know of our attacks without importing torch, which takes seconds.

python -m segrobust.commands.catalogue            # writes attacks/catalogue.json anew, from the classes
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segrobust.core.attack_specs import OF_YOUR_OWN, parse_spec
from segrobust.core.errors import unknown_name
from segrobust.core.registry import bare, known_name

if TYPE_CHECKING:
    from segrobust.attacks import Attack

FILE = Path(__file__).parents[1] / "attacks" / "catalogue.json"


@dataclass(frozen=True)
class Facts:
    """Of one attack.

    passes: forwards and backwards per image under its own defaults.
    fields: what can be set, and the defaults; of an ensemble's members their names.
    """

    norms: list[str]
    targeted: bool
    published: bool
    minimum_norm: bool
    control: bool
    passes: list[int]
    paper: str
    fields: dict[str, Any]


def catalogue() -> dict[str, Facts]:
    """Our attacks by name, and those that this process has registered besides."""
    found = {name: Facts(**facts) for name, facts in json.loads(FILE.read_text(encoding="utf-8")).items()}
    if registry := sys.modules.get("segrobust.attacks.registry"):
        found |= {name: facts_of(cls) for name, cls in registry.ATTACKS.items() if name not in found}
    return found


def in_catalogue(spec: str) -> bool:
    """Whether the attack of a text such as ``cospgd(steps=50)`` is known."""
    return bare(parse_spec(spec)["type"]) in map(bare, catalogue())


def check_specs(specs: Iterable[str]) -> None:
    """Refuse texts that name no attack, or a field that it does not have; values are checked when it is built."""
    known = catalogue()
    for spec in map(parse_spec, specs):
        name = known_name("attack", spec.pop("type"), known, OF_YOUR_OWN)
        for field in spec.keys() - {"preset"} - known[name].fields.keys():
            raise unknown_name(f"field of {name}", field, known[name].fields)


def norm_of(spec: str, norm: str | None) -> str:
    """The threat model of a known attack in a run: its text's own, else the run's, else the attack's."""
    given = parse_spec(spec)
    known = catalogue()
    return given.get("norm") or norm or known[known_name("attack", given["type"], known)].fields["norm"]


def facts_of(cls: type[Attack]) -> Facts:
    """The facts of a registered attack."""
    attack = cls()
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    members = {
        name: [member["type"] for member in attack.fields()[name]]
        for name, default in defaults.items()
        if isinstance(default, tuple)
    }
    return Facts(
        norms=list(cls.norms),
        targeted=cls.can_target,
        published=cls.published is not None,
        minimum_norm=cls.minimum_norm,
        control=cls.control,
        passes=list(attack.passes()),
        paper=cls.paper,
        fields=defaults | members,
    )


def written() -> str:
    """The text of ``catalogue.json`` as the classes have it, one attack a line."""
    from segrobust.attacks import ATTACKS

    ours = {name: cls for name, cls in ATTACKS.items() if cls.__module__.startswith("segrobust.")}
    order = sorted(ours, key=lambda name: (ours[name].minimum_norm, name.lower()))  # of no import order
    lines = (f"{json.dumps(name)}: {json.dumps(dataclasses.asdict(facts_of(ours[name])))}" for name in order)
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
