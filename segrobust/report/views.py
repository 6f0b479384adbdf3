"""What the page's templates show of the runs, made ready: tables, figures and the facts at the top."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from segrobust.analysis.worst_case import WORST_CASE
from segrobust.core.rows import ATTACK
from segrobust.core.units import format_eps
from segrobust.report import texts
from segrobust.report.curves import Curve, attack_curves, draw, run_curves, upper_end
from segrobust.report.interactive import plot_json
from segrobust.report.pictures import read_grid
from segrobust.report.runs import Run

_HEAD = {
    "Model": ("model",),
    "Config": ("config",),
    "Checkpoint": ("checkpoint",),
    "Checkpoint sha256": ("checkpoint_sha256", "weights_sha256"),
    "Data": ("dataset",),
    "Protocol": ("protocol",),
    "eps lives in": ("eps_in",),
    "Measured at": ("measured_at",),
    "Data fingerprint": ("data_fingerprint",),
    "Target": ("target.spec",),
    "Where": ("target.where",),
    "The rest": ("rest",),
    "Attacked in its place": ("surrogates",),
    "Images": ("images",),
    "Date": ("date",),
    "segrobust": ("versions.segrobust",),
    "torch": ("versions.torch",),
    "Device": ("device",),
    "Repeatable": ("repeatable",),
}
_DIGESTS = ("Checkpoint sha256", "Data fingerprint")


def once(items: Iterable) -> list:
    return list(dict.fromkeys(items))


def head_facts(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """A title and the values to show: run, short value, full value; one value without a run where all runs agree.

    A config that is called as its model is, such as a shipped one, is left out.
    """
    facts = []
    for title, names in _HEAD.items():
        values = [next((run.facts[name] for name in names if name in run.facts), "") for run in runs]
        if title == "Config" and all(run.facts.get("model") == run.facts.get("config") for run in runs):
            continue
        shown = [(run.label, _short(title, value), value) for run, value in zip(runs, values, strict=True)]
        if any(values):
            facts.append((title, [("", *shown[0][1:])] if len(set(values)) == 1 else shown))
    return facts


def _short(title: str, value: str) -> str:
    if title in _DIGESTS:
        return value[:12]
    return value.replace("T", " ").removesuffix("+00:00") + " UTC" if title == "Date" and "+00:00" in value else value


def norm_view(runs: Sequence[Run], norm: str, interactive: bool) -> dict[str, Any]:
    """Curves and tables of one threat model; a figure is a title, an SVG element and what plotly.js takes, if asked."""
    top = upper_end(runs)
    names = once(name for run in runs for name in run.attack_names(norm))
    mine = [run for run in runs if norm in run.norms]
    compared = run_curves(mine, norm)
    figures: list[tuple[str, list[Curve], str]] = []
    if len(compared) > 1:
        figures.append(("Worst case of each run", compared, f"worst case by run, {norm}"))
    for run in mine:
        figures.append((run.label, attack_curves(run, norm, names), f"{run.label}: score against radius, {norm}"))
    return {
        "name": norm,
        "figures": [_figure(*one, norm, top, interactive) for one in figures],
        "radii": sorted({r["eps"] for run in mine for r in run.attacked(norm) if r["eps"] is not None}),
        "blocks": [(run, _attack_views(run, norm)) for run in mine],
        "worst": [(run, {r["eps"]: r for r in run.at_radius(norm, WORST_CASE)}) for run in mine],
        "greedy": [(run, texts.shown_name(name), cells) for run in mine for name, cells in run.greedy(norm).items()],
    }


def _figure(
    title: str, curves: Sequence[Curve], said: str, norm: str, top: float, interactive: bool
) -> tuple[str, Markup, str]:
    return title, draw(curves, norm, said, top), plot_json(curves, norm, top) if interactive else ""


def _attack_views(run: Run, norm: str) -> list[dict[str, Any]]:
    """One view per attack; the worst case took what all the others took, each search counted once."""
    searches = {record["name"] for record in run.distances(norm)}  # one search each, whatever the number of radii
    views: list[dict[str, Any]] = []
    for name in run.attack_names(norm):
        records = run.at_radius(norm, name)
        known = [one["seconds"] for one in (views if name == WORST_CASE else records) if one["seconds"] is not None]
        total = max if name in searches else sum
        views.append(
            {
                "name": texts.shown_name(name),
                "worst": name == WORST_CASE,
                "cells": {record["eps"]: record for record in records},
                "passes": once(map(texts.passes, records)),
                "seconds": total(known) if known else None,
            }
        )
    return views


def class_view(run: Run) -> dict[str, Any] | None:
    """IoU per class: clean and at the worst case of each radius."""
    worst = [record for norm in run.norms for record in run.at_radius(norm, WORST_CASE)]
    columns = ([("clean", run.clean)] if run.clean else []) + [(format_eps(r["eps"], r["norm"]), r) for r in worst]
    columns = [(title, record["iou"]) for title, record in columns if record["iou"]]
    by_class = list(itertools.zip_longest(*(iou for _, iou in columns)))
    names = [*run.class_names, *(f"class {i}" for i in range(len(run.class_names), len(by_class)))]
    colours = [*map(css, run.palette), *["transparent"] * len(by_class)]
    rows = list(zip(names, colours, by_class, strict=False))
    return {"run": run, "columns": [title for title, _ in columns], "rows": rows} if rows else None


def grid_of(run: Run) -> list[dict[str, Any]]:
    """The entries of the picture grid, with the norm of their attack."""
    norms = {record["name"]: record["norm"] for record in run.of_study(ATTACK)}
    return [{**entry, "norm": norms.get(entry["attack"], "Linf")} for entry in read_grid(run.path / "images")]


def css(colour: Sequence[int]) -> str:
    return "rgb({}, {}, {})".format(*colour)
