"""Members of an ensemble as a frozen attack's fields can hold them: names, and configs that can be hashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segrobust.attacks.base import Attack
from segrobust.core.errors import UserError


def frozen_specs(owner: str, given: Any, reserved: Sequence[str]) -> tuple[str | tuple, ...]:
    """The ``attacks`` of the ensemble ``owner``, one or more of them, by :func:`frozen_spec`."""
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence) or not given:
        raise UserError(f"{owner}: expected attacks=[names or configs with type=], got {given!r}")
    return tuple(frozen_spec(spec, reserved, "attacks") for spec in given)


def frozen_spec(spec: Any, reserved: Sequence[str], field: str) -> str | tuple:
    """A name, or a config as sorted pairs, which can be hashed; JSON turns the pairs into lists.

    Args:
        reserved: fields that the ensemble sets itself.
        field: where the user wrote it.

    Raises:
        UserError: neither a name nor a config, or a reserved field in it.
    """
    if isinstance(spec, str):
        return spec
    if isinstance(spec, Attack):
        spec = {name: value for name, value in spec.fields().items() if name not in reserved}
    try:
        given = dict(spec)
    except (TypeError, ValueError):
        raise UserError(f"{field}: expected a name or a config with type=..., got {spec!r}") from None
    if taken := [name for name in reserved if name in given]:
        raise UserError(f"{field}: the ensemble sets {', '.join(taken)} of its members itself; got {given!r}")
    return _frozen(given)


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple(sorted((key, _frozen(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return value


def config_of(spec: str | Mapping | tuple) -> dict[str, Any]:
    """A new config with ``type``, from a name, a config or what ``frozen_spec`` froze."""
    return {"type": spec} if isinstance(spec, str) else dict(spec)


def plain_spec(spec: str | tuple) -> str | dict[str, Any]:
    """What ``frozen_spec`` froze, as JSON values."""
    return spec if isinstance(spec, str) else dict(spec)
