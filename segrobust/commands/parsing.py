"""An argparse whose errors are one :class:`UserError`, and the types of our options."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from segrobust.core.errors import UserError, unknown_name
from segrobust.core.options import Option, Options, existing_file

_KEY = re.compile(r"[\w-]+(\.[\w-]+)*")
_NEGATIVE = re.compile(r"-[\d.]")  # what argparse would take for an option, such as -1/255
_SPACE = re.compile(r"[^\s,\[\]()'\"] +[^\s,\[\]()'\"]")  # one that is part of a value, not beside a comma


class Parser(argparse.ArgumentParser):
    """Raises :class:`UserError` where argparse would print its usage; options cannot be abbreviated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.flags: list[str] = []
        self.commands: dict[str, Parser] = {}
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def add_argument(self, *names: str, **more: Any) -> argparse.Action:
        self.flags += [name for name in names if name.startswith("-")]
        return super().add_argument(*names, **more)

    def add_options(self, cls: type[Options], title: str, only: Collection[str] | None = None) -> None:
        """The options of a dataclass, or some of them, under a title of their own; :func:`options_from` reads them."""
        group = self.add_argument_group(title)
        for field in dataclasses.fields(cls):
            about: Option = field.metadata["option"]
            if not about.only_python and (only is None or field.name in only):
                names, more = _form(field, about)
                self.flags += names
                group.add_argument(*(names or [field.name]), **more)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if self.commands and words and not words[0].startswith("-") and words[0] not in self.commands:
            raise unknown_name("command", words[0], self.commands)
        option = ""
        for word in words:
            option = word if word.startswith("--") else option
            if option and _NEGATIVE.match(word):
                self.error(f"{option}: expected a number >= 0, got {word!r}")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        known_option = message.startswith(("argument ", "--"))
        raise UserError(message.removeprefix("argument ") if known_option else f"{message}; see {self.prog} --help")

    def refuse(self, leftover: list[str]) -> NoReturn:
        """The error for arguments that no option and no position takes."""
        first = leftover[0]
        if not first.startswith("-"):
            self.error(f"unexpected argument {first!r}: files and names come before the options")
        near = difflib.get_close_matches(first.split("=")[0], sorted(self.flags), n=2, cutoff=0.5)
        self.error(f"unknown option {first!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def _form(field: dataclasses.Field, about: Option) -> tuple[list[str], dict[str, Any]]:
    """The flags of a field, and how argparse is to read it."""
    default, flag = field.default, about.flag
    if flag is None:
        flag = f"--{'no-' * (default is True)}{field.name.replace('_', '-')}"
    more: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(default, about)}
    more |= {"dest": field.name} if flag else {}
    if isinstance(default, bool) and about.const is None:
        return [flag], more | {"action": "store_false" if default else "store_true"}
    more["metavar"] = about.metavar
    if about.check:
        more["type"] = checked(about.check)
    if about.many:
        more |= {"nargs": "+", "action": "extend" if default == () else "store"}
    elif about.const is not None:
        more |= {"nargs": "?", "const": about.const}
    elif not flag and default is not dataclasses.MISSING:
        more |= {"nargs": "?", "default": default}
    return [flag] if flag else [], more


def _help(default: Any, about: Option) -> str:
    if default is True:
        return f"leave out {about.help}"
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    silent = isinstance(default, bool) or default in (None, (), dataclasses.MISSING) or "(default" in about.help
    return about.help if silent else f"{about.help} (default: {shown})"


def options_from(cls: type[Options], parsed: argparse.Namespace) -> Any:
    """The options of a dataclass that were given; all others are at their defaults."""
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: value for name, value in vars(parsed).items() if name in names})


def checked(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse show the text of a :class:`UserError` that ``convert`` raises, with the option's name."""

    @functools.wraps(convert)
    def converted(text: str) -> Any:
        try:
            return convert(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted


def work_dir(text: str | Path) -> Path:
    """A folder that exists or can be made, and can be written to."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise UserError(f"expected a folder, got the file {str(text)!r}; name a folder, it need not exist")
    nearest = path.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"cannot make the folder {str(text)!r}: {str(nearest)!r} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {str(nearest)!r}; name another folder or ask for the right to write there")
    return path


file = checked(existing_file)


@checked
def out_file(text: str) -> Path:
    """A file that can be written."""
    path = Path(text)
    if path.is_dir():
        raise UserError(f"expected a file to write, got the folder {text!r}")
    work_dir(path.parent)
    return path


EXPORTS = {  # what a report can be written as besides HTML: how its file ends, and what it is
    "--csv": (".csv", "all numbers, a line per condition"),
    "--rows-csv": (".csv", "a line per image and condition"),
    "--latex": (".tex", "a table for a paper (booktabs)"),
    "--markdown": (".md", "a table for a README"),
    "--model-card": (".md", "a card for the Hugging Face Hub, and .eval_results beside it"),
}
_INSTEAD = {ending: option for option, (ending, _) in reversed(EXPORTS.items())} | dict.fromkeys(
    (".pdf", ".svg", ".png"), "--figures"
)


@checked
def report_file(text: str) -> Path:
    """An HTML file that can be written."""
    path = out_file(text)
    ending = path.suffix.lower()
    if ending != ".html":
        option = _INSTEAD.get(ending)
        raise UserError(
            f"expected a name that ends in .html, got {text!r}" + (f"; {option} writes that" if option else "")
        )
    return path


def file_ending(ending: str) -> Callable[[str], Path]:
    """The type of an option for a file that can be written and has this ending."""

    @checked
    def named(text: str) -> Path:
        if Path(text).suffix.lower() != ending:
            raise UserError(f"expected a name that ends in {ending}, got {text!r}")
        return out_file(text)

    return named


def cfg_option(text: str) -> str:
    """``key.path=value``, kept as text: :func:`parse_cfg_options` reads the value."""
    key, equals, value = text.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise UserError(f"expected key=value such as model.decode_head.num_classes=11, got {text!r}")
    if _SPACE.search(value):  # mmengine would leave it out, and name another file
        raise UserError(f"mmengine takes no space within a value, got {text!r}; set it in a config that inherits yours")
    return text


def parse_cfg_options(words: Sequence[str]) -> dict[str, Any]:
    """Keys and values as mmengine's own ``DictAction`` reads them: numbers, truth values, lists and plain text."""
    if not words:
        return {}
    from mmengine.config import DictAction

    parsed = argparse.Namespace()
    for word in words:
        try:
            DictAction(["--cfg-options"], "cfg_options")(None, parsed, [word])
        except AssertionError as error:
            raise UserError(f"--cfg-options: the brackets of {word!r} do not close") from error
    return parsed.cfg_options
