"""The tables of ``segrobust attacks``, ``models`` and ``checkpoint inspect``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table


def print_attacks() -> None:
    """One line per attack, with what it costs under its own defaults."""
    from segrobust.attacks.registry import ATTACKS, dashed

    caption = (
        "bounded attacks run at every --eps, minimum-norm ones once; "
        "passes: forwards / backwards per image; NAME:published takes the settings of the paper; "
        "your own: @segrobust.register_attack in a module that the config's custom_imports name"
    )
    table = Table(caption=caption)
    for title in ("name", "in Python", "kind", "norms", "targeted", "published", "passes", "paper"):
        table.add_column(title, overflow="fold")
    for name, cls in ATTACKS.items():
        forwards, backwards = cls().passes()
        table.add_row(
            dashed(name),
            name,
            "minimum norm" if cls.minimum_norm else "bounded",
            ", ".join(cls.norms),
            _yes(cls.can_target),
            _yes(cls.published is not None),
            f"{forwards} / {backwards}",
            cls.paper or ("control" if cls.control else "segrobust"),
        )
    Console().print(table)


def print_models() -> None:
    """One line per shipped model."""
    from segrobust.models.shipped import zoo

    entries = zoo()
    if not entries:
        print("no models are shipped with this copy of segrobust")
        return
    table = Table(caption="segrobust evaluate NAME attacks one; its weights are part of the package")
    for title in ("name", "size", "what it is"):
        table.add_column(title, overflow="fold")
    for entry in entries.values():
        table.add_row(entry.name, f"{entry.weights_path.stat().st_size / 1e6:.1f} MB", entry.description)
    Console().print(table)


def print_checkpoint(path: Path) -> None:
    """What a checkpoint holds, one fact per line."""
    from segrobust.models.checkpoint.loading import inspect_checkpoint

    for key, value in inspect_checkpoint(path).items():
        counts = isinstance(value, dict)
        print(f"{key}: {', '.join(f'{count} {kind}' for kind, count in value.items()) if counts else value}")


def _yes(answer: bool) -> str:
    return "yes" if answer else "-"
