"""The tables of ``segrobust attacks``."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from segrobust.commands.catalogue import catalogue
from segrobust.core.attack_specs import OF_YOUR_OWN
from segrobust.core.registry import dashed, known_name


def print_attacks() -> None:
    """One line per attack, with what it costs under its own defaults."""
    caption = (
        "bounded attacks run at every --eps, minimum-norm ones once; "
        "passes: forwards / backwards per image; NAME:published takes the settings of the paper; "
        "'NAME(norm=L2, steps=50)' sets fields, which `segrobust attacks NAME` lists; "
        "your own: @segrobust.register_attack in a file that --import names, or a config's custom_imports"
    )
    table = Table(caption=caption)
    for title in ("name", "in Python", "kind", "norms", "targeted", "published", "passes", "paper"):
        table.add_column(title, overflow="fold")
    for name, facts in catalogue().items():
        forwards, backwards = facts.passes
        table.add_row(
            dashed(name),
            name,
            "minimum norm" if facts.minimum_norm else "bounded",
            ", ".join(facts.norms),
            _yes(facts.targeted),
            _yes(facts.published),
            f"{forwards} / {backwards}",
            facts.paper or ("control" if facts.control else "segrobust"),
        )
    Console().print(table)


def print_fields(name: str) -> None:
    """The fields of an attack and their defaults, one per line."""
    known = catalogue()
    for field, default in known[known_name("attack", name, known, OF_YOUR_OWN)].fields.items():
        shown = ", ".join(map(dashed, default)) if isinstance(default, list) else default
        print(f"{field}: {str(shown).lower() if isinstance(shown, bool | None) else shown}")


def _yes(answer: bool) -> str:
    return "yes" if answer else "-"
