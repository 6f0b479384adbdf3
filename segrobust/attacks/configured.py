"""What is configured by its fields alone: its name, its fields as JSON values, and checks of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from segrobust.core.errors import UserError, unknown_name
from segrobust.core.units import parse_eps


@dataclass(frozen=True, kw_only=True)
class Configured:
    """Base of the frozen dataclasses whose fields are their whole identity."""

    @property
    def name(self) -> str:
        return type(self).__name__

    def fields(self) -> dict[str, Any]:
        """Everything that decides the result, as plain JSON values."""
        return {"type": self.name, **dataclasses.asdict(self)}

    def _given(self, fields: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Fields and their values, without those that are None where their type allows it."""
        for field in fields:
            value = getattr(self, field)
            if value is not None or "None" not in str(self.__dataclass_fields__[field].type):
                yield field, value

    def _whole(self, **lowest: int) -> None:
        """Refuse fields that are not whole numbers of at least ``lowest``."""
        for field, value in self._given(lowest):
            bound = lowest[field]
            if isinstance(value, bool) or not isinstance(value, int) or value < bound:
                raise UserError(f"{self.name}: expected a whole number {field} >= {bound}, got {value!r}")

    def _numbers(
        self,
        *fields: str,
        above: float = -math.inf,
        least: float = -math.inf,
        up_to: float = math.inf,
        below: float = math.inf,
    ) -> None:
        """Refuse fields that are not finite numbers within the bounds; an upper one needs a lower one."""
        for field, value in self._given(fields):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"{self.name}: expected {field} to be a number, got {value!r}")
            if not (above < value < below and least <= value <= up_to):
                strict, low, high = above > least, max(above, least), min(below, up_to)
                bounds = f"{field} {'>' if strict else '>='} {low:g}"
                if high < math.inf:
                    bounds = f"{low:g} {'<' if strict else '<='} {field} {'<' if below < up_to else '<='} {high:g}"
                raise UserError(f"{self.name}: expected {bounds}, got {value}")

    def _flags(self, *fields: str) -> None:
        for field in fields:
            if not isinstance(getattr(self, field), bool):
                raise UserError(f"{self.name}: expected {field} to be True or False, got {getattr(self, field)!r}")

    def _image_units(self, *fields: str) -> None:
        """Turn radii and lengths such as ``"8/255"`` into image units."""
        for field, value in self._given(fields):
            object.__setattr__(self, field, parse_eps(value, self.norm, field))

    def _one_of(self, **choices: Sequence[str]) -> None:
        for field, known in choices.items():
            if getattr(self, field) not in known:
                raise unknown_name(f"{self.name} {field}", str(getattr(self, field)), known)
