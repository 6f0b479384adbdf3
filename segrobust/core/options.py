"""Options as fields of a frozen dataclass: default, check, help and form on the command line stand once.

@dataclass(frozen=True, kw_only=True, eq=False)
class Settings(Options):
    seed: int = option(0, "of the random starts", whole(0), metavar="N")

Settings.of(sed=1)      # UserError: unknown option 'sed'; did you mean seed?
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Option:
    """What is known of a field besides its type and default.

    help: for a reader of ``--help``; the default is added to it where it says something.
    check: returns the value, from text too, as it is kept, or raises UserError; of one item where there are ``many``.
    many: an example of a list, where the option takes one; a single value is a list of one.
    flag: on the command line, where that is not the field's name; empty for an argument without one.
    only_python: the command line does not have it.
    const: the value of the flag alone, without a word after it.
    """

    help: str
    check: Callable[[Any], Any] | None = None
    metavar: str | None = None
    many: str = ""
    flag: str | None = None
    only_python: bool = False
    const: Any = None

    def checked(self, name: str, value: Any) -> Any:
        """The value as it is kept; UserError: not one of this option, called ``name``."""
        try:
            if self.many:
                return tuple(one if self.check is None else self.check(one) for one in _listed(value, self.many))
            return value if value is None or self.check is None else self.check(value)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None


def option(default: Any, help: str, check: Callable[[Any], Any] | None = None, **more: Any) -> Any:
    """A dataclass field with its :class:`Option`."""
    return dataclasses.field(default=default, metadata={"option": Option(help=help, check=check, **more)})


class Options:
    """Base of a frozen, keyword-only dataclass whose fields are made by :func:`option`; they are checked when made."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = field.metadata["option"].checked(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    @classmethod
    def of(cls, **given: Any) -> Any:
        """The options that are given by name; UserError: there is no such option, or a value is none of it."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in given.keys() - names:
            raise unknown_name("option", name, names)
        return cls(**given)


def takes(*options: type[Options]) -> Callable[[Callable], Callable]:
    """A decorator for a function whose ``**`` keywords are these options: ``help`` lists them, with their defaults."""
    known = [field for several in options for field in dataclasses.fields(several)]

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        fields = [field for field in known if field.name not in signature.parameters]
        named = [
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
            for one in fields
        ]
        function.__signature__ = signature.replace(parameters=[*own, *named])
        told = [f"        {one.name}: {one.metadata['option'].help}" for one in fields]
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *told])
        return function

    return decorate


def _listed(value: Any, example: str) -> Iterable[Any]:
    """The items of a list, or the one that stands for a list of one."""
    if value is None:
        raise UserError(f"expected a list such as {example}, got None")
    single = isinstance(value, str | Mapping | type) or getattr(value, "ndim", None) == 0
    return [value] if single or not isinstance(value, Iterable) else value


def whole(lowest: int, *words: str) -> Callable[[Any], int | str]:
    """A check for whole numbers of at least ``lowest``, and for some words besides."""

    def check(value: Any) -> int | str:
        if isinstance(value, str) and value in words:
            return value
        text = isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip())
        try:
            number = int(value) if text else operator.index("" if isinstance(value, bool) else value)
        except TypeError:  # no whole number
            number = lowest - 1
        if number < lowest:
            expected = " or ".join([f"a whole number >= {lowest}", *map(repr, words)])
            raise UserError(f"expected {expected}, got {value!r}")
        return number

    return check


def one_of(*names: str) -> Callable[[Any], str]:
    """A check for one of some words."""

    def check(value: Any) -> str:
        if value not in names:
            raise unknown_name("value", str(value), names)
        return value

    return check


def existing_folder(value: str | Path) -> Path:
    """The path of a folder that is there."""
    path = Path(value)
    if not path.is_dir():
        raise UserError(f"no such folder: {str(value)!r}")
    return path


def existing_file(value: str | Path) -> Path:
    """The path of a file that is there."""
    path = Path(value)
    if path.is_dir():
        raise UserError(f"expected a file, got the folder {str(value)!r}")
    if not path.is_file():
        raise UserError(f"no such file: {str(value)!r}")
    return path
