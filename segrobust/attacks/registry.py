"""Names of the attacks: ``build_attack("TsallisPGD", eps="4/255", steps=100)``.

An attack of your own takes a decorator, in a module that the config names in ``custom_imports`` (or that you import)::

    @segrobust.register_attack
    class Mine(GradientAttack):                 # its annotated fields are its options, as in a dataclass
        power: float = 2.0

        def weight(self, pixels):
            return pixels.log_p.exp() ** self.power

From then on ``build_attack("Mine")``, ``--attack mine`` and ensembles find it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from segrobust.attacks import (
    alma_cls,
    alma_prox,
    asma,
    bisection,
    bounded,
    dag,
    fmn,
    min_norm_ensemble,
    primal_dual,
    sea,
    sharp,
    spherical,
    square,
    standard,
)
from segrobust.attacks.base import Attack
from segrobust.attacks.specs import config_of
from segrobust.core.errors import UserError, unknown_name

ATTACKS: dict[str, type[Attack]] = {
    cls.__name__: cls
    for cls in (
        bounded.UniformNoise,
        bounded.FGSM,
        bounded.CEPGD,
        bounded.SegPGD,
        bounded.CosPGD,
        bounded.JSPGD,
        bounded.MaskedPGD,
        bounded.BalancedPGD,
        bounded.TsallisPGD,
        sharp.SharpPGD,
        sharp.BalancedSharpPGD,
        spherical.SphericalPGD,
        sea.SEA,
        standard.Standard,
        square.Square,
        dag.DAG,
        fmn.FMN,
        fmn.DDN,
        bisection.PGDBisection,
        bisection.MIFGSMBisection,
        primal_dual.PDPGD,
        primal_dual.PDGD,
        asma.ASMA,
        alma_cls.ALMACls,
        alma_prox.ALMAProx,
        min_norm_ensemble.MinNormEnsemble,
    )
}


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def dashed(name: str) -> str:
    """The command line's spelling: ``TsallisPGD`` -> ``tsallis-pgd``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def is_attack(name: str) -> bool:
    """Whether a name, with or without a preset (``cospgd:published``), is that of an attack."""
    return _plain(name.partition(":")[0]) in map(_plain, ATTACKS)


def find_attack(name: str) -> type[Attack]:
    """The class of ``TsallisPGD``, ``tsallis-pgd`` or ``tsallispgd``."""
    plain = {_plain(known): cls for known, cls in ATTACKS.items()}
    if _plain(name) not in plain:
        error = unknown_name("attack", dashed(name), [dashed(known) for known in ATTACKS])
        raise UserError(f"{error} (one of your own: name its file in the config's custom_imports)")
    return plain[_plain(name)]


def register_attack(cls: type[Attack]) -> type[Attack]:
    """Make an attack known by the name of its class; as a decorator, it also makes the class a frozen dataclass.

    Raises:
        UserError: not a subclass of Attack, or another attack has this name.
    """
    if not (isinstance(cls, type) and issubclass(cls, Attack)):
        shown = cls.__name__ if isinstance(cls, type) else repr(cls)
        raise UserError(f"register_attack: expected a subclass of GradientAttack, BoundedAttack, ..., got {shown}")
    if "__dataclass_fields__" not in vars(cls):
        cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    for name, known in ATTACKS.items():
        if _plain(name) == _plain(cls.__name__) and _origin(known) != _origin(cls):  # a module may be read anew
            raise UserError(f"register_attack: there is an attack {name} already; give yours another name")
    ATTACKS[cls.__name__] = cls
    return cls


def _origin(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def build_attack(
    spec: str | Mapping[str, Any] | Attack | type[Attack], *, preset: str | None = None, **fields: Any
) -> Attack:
    """Build an attack from a name, a config with ``type=``, a class or another attack.

    Args:
        spec: ``"TsallisPGD"``, ``"tsallis-pgd"``, ``"cospgd:published"``, ``dict(type="CosPGD")``, ``CosPGD`` or an
            attack.
        preset: ``"published"`` for the settings of the attack's own paper.
        fields: override what ``spec`` and ``preset`` say.

    Raises:
        UserError: unknown name, preset or field, or a value outside its range.
    """
    if isinstance(spec, Attack):
        if preset is not None:
            raise UserError(f"preset: an attack that is already built keeps its settings; give its name, {spec.name!r}")
        return dataclasses.replace(spec, **_known(type(spec), fields))
    if isinstance(spec, type) and issubclass(spec, Attack):
        given, cls, suffix = {}, spec, ""
    elif not isinstance(spec, str | Mapping | tuple) or not isinstance(config_of(spec).get("type"), str):
        raise UserError(f"attack: expected a name or a config with type=..., got {spec!r}")
    else:
        given = config_of(spec)
        name, _, suffix = given.pop("type").partition(":")
        cls = find_attack(name)
    preset = given.pop("preset", None) or suffix or preset
    if preset is not None and preset != "published":
        raise unknown_name("preset", preset, ["published"])
    if preset and cls.published is None:
        raise UserError(f"{cls.__name__} has no published settings; leave the preset out")
    return cls(**_known(cls, {**(cls.published if preset else {}), **given, **fields}))


def _known(cls: type[Attack], fields: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    for name in fields:
        if name == "mask" and name not in names:
            raise UserError("mask: where the attacker may write belongs to the images; give it in the call: "
                            "attack(model, images, labels, mask=mask)")  # fmt: skip
        if name not in names:
            raise unknown_name(f"field of {cls.__name__}", name, names)
    return dict(fields)
