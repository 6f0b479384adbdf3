"""Tables that are read from the code, so that they cannot fall behind it.

```{options} segrobust.runs.settings.Settings
```
```{protocols}
```
```{published}
```
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterable, Iterator, Sequence

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx


def cell(text: object) -> str:
    """One line, in which no character ends the cell, opens a tag or makes a list."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


class CodeTable(Directive):
    """Base of the tables below."""

    header: Sequence[str] = ()

    def rows(self) -> Iterable[Sequence[str]]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        lines = [self.header, ["---"] * len(self.header), *self.rows()]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        holder = nodes.container()
        self.state.nested_parse([text], self.content_offset, holder)
        return holder.children


class Options(CodeTable):
    """The options of a dataclass: how they are called on the command line and in Python, and what they are."""

    required_arguments = 1
    header = ("command line", "Python", "what it is")

    def rows(self) -> Iterator[Sequence[str]]:
        module, _, name = self.arguments[0].rpartition(".")
        for field in dataclasses.fields(getattr(importlib.import_module(module), name)):
            yield option_row(field)


def option_row(field: dataclasses.Field) -> Sequence[str]:
    from segrobust.commands.parsing import _form

    about = field.metadata["option"]
    if about.only_python:
        return "", f"`{field.name}`", cell(about.help)
    flags, more = _form(field, about)
    shown = [*flags, *([about.metavar] if about.metavar else [])]
    return f"`{' '.join(shown)}`".replace("|", "\\|"), f"`{field.name}`", cell(more["help"])


class Protocols(CodeTable):
    """The named protocols of papers."""

    header = ("name", "data", "classes", "size at the input", "void", "measured at", "of")

    def rows(self) -> Iterator[Sequence[str]]:
        from segrobust.datasets.protocols import PROTOCOLS

        for one in PROTOCOLS.values():
            sizes = [f"short side {size}" if isinstance(size, int) else "{}x{}".format(*size) for size in one.resize]
            sizes += [f"centre crop {one.crop}"] * (one.crop is not None)
            void = "left out" if one.void_class is None else f"counts as class {one.void_class}"
            data = one.data.archive.name
            size = ", ".join(sizes) or "whole image"
            yield f"`{one.name}`", data, str(one.num_classes), size, void, one.metric_size, cell(one.source)


class PublishedModels(CodeTable):
    """The published checkpoints with their authors' scores."""

    header = ("name", "data", "trained", "parameters", "published mIoU in %, not reproduced", "file")

    def rows(self) -> Iterator[Sequence[str]]:
        from segrobust.models.published import PUBLISHED

        for one in PUBLISHED.values():
            scores = ", ".join(f"{what} {score.miou}" for what, score in one.scores.items()) or "none"
            file = f"`{one.file}`" if one.file else "none published"
            count = f"{one.parameters / 1e6:.1f} M"
            yield f"`{one.name}`", one.data.name, cell(one.training), count, cell(scores), file


class AttackClasses(Directive):
    """The classes of all registered attacks of a kind, ``bounded`` or ``minimum-norm``, from their docstrings."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from segrobust.attacks import ATTACKS

        wanted = self.arguments[0] == "minimum-norm"
        found = [f"{one.__module__}.{name}" for name, one in sorted(ATTACKS.items()) if one.minimum_norm == wanted]
        lines = ["```{eval-rst}", *(f".. autoclass:: {name}\n" for name in found), "```"]
        holder = nodes.container()
        self.state.nested_parse(["\n".join(lines)], self.content_offset, holder)
        return holder.children


FIELD = re.compile(r"[a-z]\w*(, [a-z]\w*)*: ")


def fields_as_arguments(app, what: str, name: str, thing: object, options, lines: list[str]) -> None:
    """A paragraph of several lines ``field: text`` is of fields, as below ``Args:``."""
    starts = [number for number, line in enumerate(lines) if FIELD.match(line) and not (number and lines[number - 1])]
    for start in reversed(starts):
        end = next((number for number in range(start, len(lines)) if not lines[number]), len(lines))
        if sum(bool(FIELD.match(line)) for line in lines[start:end]) > 1:
            lines[start:end] = ["Args:", *(f"    {line}" for line in lines[start:end])]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", fields_as_arguments, priority=100)  # before napoleon
    tables = {"options": Options, "protocols": Protocols, "published": PublishedModels, "attack-classes": AttackClasses}
    for name, directive in tables.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True}
