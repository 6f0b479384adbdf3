"""What is configured by its fields alone: its name, its fields as JSON values, and checks of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segrobust.core.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Configured:
    """Base of the frozen dataclasses whose fields are their whole identity."""

    @property
    def name(self) -> str:
        return type(self).__name__

    def fields(self) -> dict[str, Any]:
        """Everything that decides the result, as plain JSON values."""
        return {"type": self.name, **dataclasses.asdict(self)}

    def _whole(self, **lowest: int) -> None:
        """Refuse fields that are not whole numbers of at least ``lowest``."""
        for field, bound in lowest.items():
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < bound:
                raise UserError(f"{self.name}: expected a whole number {field} >= {bound}, got {value!r}")

    def _numbers(self, *fields: str, above: float = -math.inf, up_to: float = math.inf) -> None:
        """Refuse fields that are not finite numbers in ``(above, up_to]``."""
        for field in fields:
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"{self.name}: expected {field} to be a number, got {value!r}")
            if not above < value <= up_to:
                bounds = f"{field} > {above:g}" if up_to == math.inf else f"{above:g} < {field} <= {up_to:g}"
                raise UserError(f"{self.name}: expected {bounds}, got {value}")

    def _one_of(self, **choices: Sequence[str]) -> None:
        for field, known in choices.items():
            if getattr(self, field) not in known:
                raise unknown_name(f"{self.name} {field}", str(getattr(self, field)), known)
