"""Names of the attacks: ``build_attack("TsallisPGD", eps="4/255", steps=100)``.

Every attack enters by its decorator, ours and those of a module that you import, or that ``--import`` or the config's
``custom_imports`` name; its annotated fields are its options.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Hashable, Mapping
from typing import Any

from segrobust.attacks.base import Attack
from segrobust.attacks.members import Ensemble
from segrobust.core.attack_specs import OF_YOUR_OWN, parse_spec
from segrobust.core.errors import UserError, unknown_name
from segrobust.core.registry import Registry

ATTACKS: Registry[type[Attack]] = Registry("attack", OF_YOUR_OWN)


def register_attack(cls: type[Attack]) -> type[Attack]:
    """Make an attack known by the name of its class; as a decorator, it also makes the class a frozen dataclass.

    Raises:
        UserError: not a subclass of Attack, a new default without its type, or another attack has this name.
    """
    if not (isinstance(cls, type) and issubclass(cls, Attack)):
        shown = cls.__name__ if isinstance(cls, type) else repr(cls)
        raise UserError(f"register_attack: expected a subclass of GradientAttack, BoundedAttack, ..., got {shown}")
    if "__dataclass_fields__" not in vars(cls):
        for field in dataclasses.fields(cls):
            if field.name in vars(cls) and field.name not in inspect.get_annotations(cls):
                raise UserError(f"register_attack: {cls.__name__} sets {field.name} without a type, which Python takes "
                                f"for no field; write {field.name}: {field.type} = ...")  # fmt: skip
        cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    return ATTACKS.add(cls)


def build_attack(
    spec: str | Mapping[str, Any] | Attack | type[Attack], *, preset: str | None = None, **fields: Any
) -> Attack:
    """Build an attack from a text, a config with ``type=``, a class or another attack.

    Args:
        spec: ``"TsallisPGD"``, ``"tsallis-pgd"``, ``"cospgd:published"``, ``"tsallis-pgd(norm=L2, q_start=-3)"``,
            ``dict(type="CosPGD")``, ``CosPGD`` or an attack. An ensemble's members are given in the same ways.
        preset: ``"published"`` for the settings of the attack's own paper.
        fields: override what ``spec`` and ``preset`` say.

    Raises:
        UserError: unknown name, preset or field, or a value outside its range.
    """
    if isinstance(spec, Attack):
        if preset is not None:
            raise UserError(f"preset: an attack that is already built keeps its settings; give its name, {spec.name!r}")
        return dataclasses.replace(spec, **_checked(type(spec), fields, spec.norm))
    if isinstance(spec, type) and issubclass(spec, Attack):
        given, cls = {}, spec
    else:
        given = config_of(spec)
        cls = ATTACKS.find(given.pop("type"))
    preset = given.pop("preset", None) or preset
    if preset is not None and preset != "published":
        raise unknown_name("preset", str(preset), ["published"])
    if preset and cls.published is None:
        raise UserError(f"{cls.__name__} has no published settings; leave the preset out")
    return cls(**_checked(cls, {**(cls.published if preset else {}), **given, **fields}, cls.norm))


def config_of(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """A new config: the ``type``, without a preset in it, the ``preset`` if any, and the fields."""
    given = {"type": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    if not isinstance(given.get("type"), str):
        raise UserError(f"attack: expected a name or a config with type=..., got {spec!r}")
    return {**parse_spec(given.pop("type")), **given}


def _checked(cls: type[Attack], fields: Mapping[str, Any], norm: str) -> dict[str, Any]:
    """The fields of a ``cls`` as it takes them: their names are known, lists are tuples, an ensemble's members built.

    Args:
        norm: that of the attack where ``fields`` have none.
    """
    names = {field.name for field in dataclasses.fields(cls)}
    found = {}
    for name, value in fields.items():
        if name == "mask" and name not in names:
            raise UserError("mask: where the attacker may write belongs to the images; give it in the call: "
                            "attack(model, images, labels, mask=mask)")  # fmt: skip
        if name not in names:
            raise unknown_name(f"field of {cls.__name__}", name, names)
        if issubclass(cls, Ensemble) and name == cls.members_field and isinstance(value, list | tuple):
            value = [_member(cls, one, fields.get("norm", norm)) for one in value]
        found[name] = _frozen(cls, name, value)
    return found


def _member(cls: type[Ensemble], spec: Any, norm: str) -> Any:
    if not isinstance(spec, str | Mapping):  # built already, or the ensemble says what is wrong with it
        return spec
    given = config_of(spec)
    if taken := [name for name in cls.sets if name in given]:
        field = cls.members_field
        raise UserError(f"{field}: the ensemble sets {', '.join(taken)} of its members itself; got {spec!r}")
    options = {name: given.pop(name) for name in cls.member_options if name in given}
    return cls.member(build_attack(given, norm=norm), **options)


def _frozen(cls: type[Attack], name: str, value: Any) -> Any:
    """A field's value as a frozen attack can hold it."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(cls, name, item) for item in value)
    if not isinstance(value, Hashable):
        raise UserError(f"{cls.__name__}: expected {name} to be a number, a text or a list of them, got {value!r}")
    return value
