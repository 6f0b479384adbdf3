"""An argparse whose errors are one :class:`UserError`, and the types of our options."""

from __future__ import annotations

import argparse
import difflib
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from segrobust.core.errors import UserError, unknown_name
from segrobust.core.literals import parse_value
from segrobust.core.units import parse_eps
from segrobust.datasets.target_spec import parse_target

_KEY = re.compile(r"[\w-]+(\.[\w-]+)*")


class Parser(argparse.ArgumentParser):
    """Raises :class:`UserError` where argparse would print its usage; options cannot be abbreviated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self._negative_number_matcher = re.compile(r"-[\d.]")  # so that --eps -1/255 is a wrong radius, not an option

    def error(self, message: str) -> NoReturn:
        known_option = message.startswith("argument ")
        raise UserError(message.removeprefix("argument ") if known_option else f"{message}; see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise unknown_name(str(action.metavar or action.dest), str(value), map(str, action.choices))

    def refuse(self, leftover: list[str]) -> NoReturn:
        """The error for arguments that no option and no position takes."""
        first = leftover[0]
        if not first.startswith("-"):
            self.error(f"unexpected argument {first!r}: files and names come before the options")
        known = sorted(self._option_string_actions)
        near = difflib.get_close_matches(first.split("=")[0], known, n=2, cutoff=0.5)
        self.error(f"unknown option {first!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def checked(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse show the text of a :class:`UserError` that ``convert`` raises, with the option's name."""

    @functools.wraps(convert)
    def converted(text: str) -> Any:
        try:
            return convert(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("eps: ")) from None

    return converted


@checked
def eps(text: str) -> str:
    """A radius such as ``1/255``, checked and kept as it was written."""
    parse_eps(text)
    return text


@checked
def target(text: str) -> str:
    """A target such as ``class:road``, checked as far as it can be without data."""
    parse_target(text)
    return text


@checked
def positive(text: str) -> int:
    """An integer of at least 1."""
    return _integer(text, 1)


@checked
def batch_size(text: str) -> int | str:
    """An integer of at least 1, or ``auto``."""
    return text if text == "auto" else _integer(text, 1, " or auto")


@checked
def seed(text: str) -> int:
    """An integer of at least 0."""
    return _integer(text, 0)


def _integer(text: str, lowest: int, otherwise: str = "") -> int:
    if not re.fullmatch(r"[+-]?\d+", text.strip()) or int(text) < lowest:
        raise UserError(f"expected an integer >= {lowest}{otherwise}, got {text!r}")
    return int(text)


@checked
def work_dir(text: str) -> Path:
    """A folder that exists or can be made, and can be written to."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise UserError(f"expected a folder, got the file {text!r}; name a folder, it need not exist")
    nearest = path.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"cannot make the folder {text!r}: {str(nearest)!r} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {str(nearest)!r}; name another folder or ask for the right to write there")
    return path


@checked
def file(text: str) -> Path:
    """A file that exists."""
    path = Path(text)
    if path.is_dir():
        raise UserError(f"expected a file, got the folder {text!r}")
    if not path.is_file():
        raise UserError(f"no such file: {text!r}")
    return path


@checked
def out_file(text: str) -> Path:
    """A file that can be written."""
    path = Path(text)
    if path.is_dir():
        raise UserError(f"expected a file to write, got the folder {text!r}")
    work_dir.__wrapped__(str(path.parent))
    return path


@checked
def cfg_option(text: str) -> tuple[str, Any]:
    """``key.path=value`` with a Python literal, a list such as ``a,b`` or plain text as value."""
    key, equals, value = text.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise UserError(f"expected key=value such as model.decode_head.num_classes=11, got {text!r}")
    return key, parse_value(value)
