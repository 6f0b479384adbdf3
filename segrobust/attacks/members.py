"""What attacks have in common that are made of others.

They are given built attacks; whoever has names or configs instead leaves them to ``build_attack``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from segrobust.attacks.base import Attack
from segrobust.core.errors import UserError


class Ensemble:
    """Mixin of the attacks that are made of others.

    members_field: name of the field that holds them.
    sets: fields of the members that the ensemble sets itself.
    member_options: what a member's config may say beside the fields of its attack.
    """

    members_field: ClassVar[str] = "attacks"
    sets: ClassVar[tuple[str, ...]] = ()
    member_options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def member(cls, attack: Attack, **options: Any) -> Any:
        """What the field holds for one attack and its ``member_options``."""
        return attack

    def members(self) -> list[Attack]:
        """The attacks as they run, with all that the ensemble sets."""
        return list(getattr(self, self.members_field))

    def config(self, member: Any) -> dict[str, Any]:
        """What ``build_attack`` needs to make this member again, as JSON values."""
        return {name: value for name, value in member.fields().items() if name not in self.sets}

    def fields(self) -> dict[str, Any]:
        members = getattr(self, self.members_field)
        return {**super().fields(), self.members_field: [self.config(member) for member in members]}

    def given(self) -> Sequence[Any]:
        """The members' field.

        Raises:
            UserError: no list, or an empty one.
        """
        given = getattr(self, self.members_field)
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise UserError(f"{type(self).__name__}: expected {self.members_field}=[attacks], got {given!r}")
        return given


def with_fields(attack: Attack, **fields: Any) -> Attack:
    """A copy of an attack with those of the given fields that it has."""
    own = {field.name for field in dataclasses.fields(attack)}
    return dataclasses.replace(attack, **{name: value for name, value in fields.items() if name in own})
