"""The tables of ``segrobust attacks``, ``models`` and ``checkpoint inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from segrobust.commands.catalogue import catalogue
from segrobust.core.attack_specs import OF_YOUR_OWN
from segrobust.core.registry import dashed, known_name
from segrobust.models.published import PUBLISHED, Published

if TYPE_CHECKING:
    from segrobust.models.shipped import ZooEntry


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


def print_models() -> None:
    """One line per shipped model and per published one."""
    from segrobust.models.shipped import zoo

    if entries := zoo():
        _print_shipped(entries)
    else:
        print("no models are shipped with this copy of segrobust")
    _print_published()


def _print_shipped(entries: Mapping[str, ZooEntry]) -> None:
    table = Table(caption="segrobust evaluate NAME attacks one; its weights are part of the package")
    for title in ("name", "size", "what it is"):
        table.add_column(title, overflow="fold")
    for entry in entries.values():
        table.add_row(entry.name, f"{entry.weights_path.stat().st_size / 1e6:.1f} MB", entry.description)
    Console().print(table)


def _print_published() -> None:
    """A table per paper."""
    for paper in {one.paper.name: one.paper for one in PUBLISHED.values()}.values():
        title = f"{paper.name}: {paper.citation}; {paper.repository}; licence: {paper.licence}"
        protocols = "; ".join(f"{data}: {words}" for data, words in paper.protocols.items())
        caption = f"protocol of the authors: {protocols}; scores: {paper.sources}; files: {paper.layout}"
        table = Table(title=title, caption=caption)
        table.add_column("name", no_wrap=True)
        for column in ("what it is", "published mIoU %"):
            table.add_column(column, overflow="fold")
        for one in PUBLISHED.values():
            if one.paper is paper:
                table.add_row(*_published_row(one))
        Console().print(table)
    print(
        "segrobust evaluate NAME FILE attacks a published one; weights: bring your own FILE. Scores are quoted: "
        "published, not reproduced. Data: --data-root DIR, in the official archive's layout (Cityscapes with "
        "*_labelTrainIds.png); PIR-AT's are prepared by their paper's protocol, DDC-AT's are whole images with void "
        "ignored (their tiles with averaged answers are not attacked here) unless a --protocol says otherwise."
    )


def _published_row(one: Published) -> tuple[str, ...]:
    scores = ", ".join(f"{what} {score.miou}" for what, score in one.scores.items())
    data, weights = f"{one.data.name}, {one.data.num_classes} classes", f"{one.parameters / 1e6:.1f} M weights"
    facts = (one.training, data, weights, one.file or "no file published")
    return one.name, "; ".join(facts), scores or "none"


def print_checkpoint(path: Path) -> None:
    """What a checkpoint holds, one fact per line."""
    from segrobust.models.checkpoint.loading import inspect_checkpoint

    for key, value in inspect_checkpoint(path).items():
        counts = isinstance(value, dict)
        print(f"{key}: {', '.join(f'{count} {kind}' for kind, count in value.items()) if counts else value}")


def _yes(answer: bool) -> str:
    return "yes" if answer else "-"
