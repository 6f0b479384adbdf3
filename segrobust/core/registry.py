"""Classes by name: ``tsallis-pgd``, ``TsallisPGD`` and ``tsallis_pgd`` are one, and a name is never taken twice."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from segrobust.core.errors import UserError, unknown_name

T = TypeVar("T", bound=type)


def bare(name: str) -> str:
    """A name without case, dashes, underscores and spaces."""
    return re.sub(r"[-_\s]", "", name).lower()


def dashed(name: str) -> str:
    """The command line's spelling: ``TsallisPGD`` -> ``tsallis-pgd``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def known_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> str:
    """The one of the ``known`` names that ``name`` spells.

    Args:
        kind: what is named, for the error: ``"attack"``.
        hint: what else to do about an unknown name.

    Raises:
        UserError: none of them, with the nearest ones.
    """
    spelt = {bare(one): one for one in known}
    if bare(name) not in spelt:
        error = unknown_name(kind, dashed(name), [dashed(one) for one in spelt.values()])
        raise UserError(f"{error} ({hint})" if hint else str(error))
    return spelt[bare(name)]


class Registry(dict[str, T]):
    """Classes of one kind by the names that they were given in their files."""

    def __init__(self, kind: str, hint: str = "") -> None:
        super().__init__()
        self.kind, self.hint = kind, hint

    def find(self, name: str) -> T:
        """The class that ``name`` spells; :func:`known_name` tells of the errors."""
        return self[known_name(self.kind, name, self, self.hint)]

    def add(self, cls: T) -> T:
        """Make a class known by its name; a module that is read anew may replace its own.

        Raises:
            UserError: another class has this name.
        """
        for name, known in self.items():
            same = (known.__module__, known.__qualname__) == (cls.__module__, cls.__qualname__)
            if bare(name) == bare(cls.__name__) and not same:
                article = "an" if self.kind[0] in "aeiou" else "a"
                raise UserError(
                    f"register_{self.kind}: there is {article} {self.kind} {name} already; give yours another name"
                )
        self[cls.__name__] = cls
        return cls
