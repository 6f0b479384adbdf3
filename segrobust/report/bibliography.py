"""BibTeX of what a report's runs used: this tool, the papers of their attacks, and of their corruptions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from segrobust.core.rows import ATTACK, CORRUPTION, UNIVERSAL, Condition
from segrobust.core.version import __version__

FILE = Path(__file__).with_name("bibliography.json")
_CATALOGUE = Path(__file__).parents[1] / "attacks" / "catalogue.json"


def bibliography(conditions: Iterable[Condition]) -> str:
    """BibTeX entries, this tool's first, then papers by their number on arXiv; nobody's paper of an own attack."""
    known = json.loads(FILE.read_text(encoding="utf-8"))
    attacks = json.loads(_CATALOGUE.read_text(encoding="utf-8"))
    used = {paper for condition in conditions for paper in _papers(condition, known, attacks)}
    entries = [known["software"].replace("VERSION", __version__)]
    return "\n\n".join(
        [*entries, *(_entry(known["papers"][one], one) for one in sorted(used) if one in known["papers"])]
    )


def _papers(condition: Condition, known: dict[str, Any], attacks: dict[str, Any]) -> Iterator[str]:
    if condition.study == CORRUPTION:
        yield from known["studies"]["corruption"]
    if condition.study == UNIVERSAL:
        kind = condition.fields.get("type")
        yield from known["studies"]["universal"].get(kind if isinstance(kind, str) else "", ())
    if condition.study in (ATTACK, UNIVERSAL):
        for fields in _tables(condition.fields):
            kind = fields.get("type")
            if isinstance(kind, str) and kind in attacks:
                yield number(attacks[kind]["paper"])
            yield from (paper for name, value, paper in known["settings"] if fields.get(name) == value)


def number(paper: str) -> str:
    """``2306.12941`` of ``arXiv 2306.12941v1``; of another publication its name."""
    return paper.removeprefix("arXiv ").partition("v")[0] if paper.startswith("arXiv ") else paper


def _tables(value: Any) -> Iterator[dict[str, Any]]:
    """A condition's fields, and those of an ensemble's members in them."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _tables(one)


def _entry(paper: dict[str, Any], arxiv: str) -> str:
    kind = "inproceedings" if "booktitle" in paper else "misc"
    fields = {name: str(paper[name]) for name in ("title", "author", "booktitle", "year") if name in paper}
    if arxiv[0].isdigit():
        fields |= {"eprint": arxiv, "archiveprefix": "arXiv"}
    return f"@{kind}{{{paper['key']},\n" + ",\n".join(f"  {name} = {{{text}}}" for name, text in fields.items()) + "\n}"
