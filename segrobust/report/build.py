"""``report.html``: run folders in, one offline page out.

Everything that comes from a run is escaped by the template engine; figures and pictures are made here; the page has no
script, loads nothing, and says so to the browser in its content security policy.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segrobust.analysis.worst_case import WORST_CASE
from segrobust.checks.verdicts import NOT_TRUSTWORTHY, VERIFIED, WITH_WARNINGS
from segrobust.core.files import clear_io_errors, replace_file
from segrobust.core.rows import ATTACK
from segrobust.core.units import format_eps
from segrobust.report import lines, texts
from segrobust.report.curves import attack_curves, draw, run_curves, upper_end
from segrobust.report.pairs import as_data, bounds, paired_runs
from segrobust.report.pictures import CHANGES, KINDS, read_grid
from segrobust.report.runs import Run, load_runs
from segrobust.report.survival import survival_figures

_FILTERS = (
    texts.percent, texts.interval, texts.count, texts.passes, texts.points, texts.median_cell, texts.median_8bit,
    texts.format_distance, texts.judged, format_eps, bounds, lines.mean_lines, lines.severity_table, lines.below_clean,
    lines.universal_lines, lines.ring_table,
)  # fmt: skip
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
_TRUST_CLASSES = {VERIFIED: "good", WITH_WARNINGS: "doubtful", NOT_TRUSTWORTHY: "bad"}
_IN_WORDS = {
    "Linf": "every channel of every pixel may change by at most eps, with images in [0, 1]",
    "L2": "the Euclidean length of the whole change is at most eps, with images in [0, 1]",
    "L1": "the absolute changes of all channels and pixels sum to at most eps, with images in [0, 1]",
}


def build_report(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one HTML file about one run, or comparing several.

    Args:
        run_dirs: folders with ``run.json``, ``summary.json`` and, if pictures were kept, ``images/grid.json``.
        out: the file; by default ``report.html`` in the first folder.

    Raises:
        UserError: a folder that is not a finished run, or a file that cannot be written.
    """
    runs = load_runs([Path(folder) for folder in run_dirs])
    path = Path(out) if out is not None else runs[0].path / "report.html"
    with clear_io_errors(f"create {path.parent}", "choose an --out that can be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, render(runs).encode())
    return path


def render(runs: Sequence[Run]) -> str:
    """The page as a string."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {made.__name__: made for made in _FILTERS}
    pairs = paired_runs(runs)
    attacked = _once(record["norm"] for run in runs for record in run.of_study(ATTACK))
    data = [
        {"run": run.label, "facts": run.facts, "settings": run.settings, "records": run.records}
        | ({"trust": run.trust.level, "checks": run.trust.checks} if run.trust else {})
        | as_data(pairs, run.label)
        for run in runs
    ]
    return environment.get_template("report.html.j2").render(
        title=" vs ".join(run.label for run in runs) if len(runs) > 1 else runs[0].facts.get("model", runs[0].label),
        runs=runs,
        head=_head(runs),
        levels=_TRUST_CLASSES,
        trusted=[run.label for run in runs if run.facts.get("checkpoint_trusted") == "true"],
        norms=[_norm_view(runs, norm) for norm in _once(norm for run in runs for norm in run.norms)],
        kept=any("kept" in record for run in runs for record in run.records),
        targets=[run for run in runs if "target.spec" in run.facts],
        surrogates=[(run.label, run.facts["surrogates"]) for run in runs if "surrogates" in run.facts],
        pairs=pairs,
        minimum_norm=[(run, r) for run in runs for r in run.records if "median_distance" in r],
        costs=[(run, line) for run in runs for line in lines.cost_lines(run.records)],
        survival=[(norm, figures) for norm in attacked if (figures := survival_figures(runs, norm))],
        classes=[view for run in runs if (view := _class_view(run))],
        grids=[(run, grid) for run in runs if (grid := _grid(run))],
        kinds=KINDS,
        changes={name: _css(colour) for name, colour in CHANGES.items()},
        swatches=_once(
            (name, _css(colour)) for run in runs for name, colour in zip(run.class_names, run.palette, strict=False)
        ),
        data=json.dumps(data, indent=1),
    )


def _once(items: Iterable) -> list:
    return list(dict.fromkeys(items))


def _head(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """A title and the values to show: run, short value, full value; one value without a run where all runs agree."""
    facts = []
    for title, names in _HEAD.items():
        values = [next((run.facts[name] for name in names if name in run.facts), "") for run in runs]
        shown = [(run.label, _short(title, value), value) for run, value in zip(runs, values, strict=True)]
        if any(values):
            facts.append((title, [("", *shown[0][1:])] if len(set(values)) == 1 else shown))
    return facts


def _short(title: str, value: str) -> str:
    if title in _DIGESTS:
        return value[:12]
    return value.replace("T", " ").removesuffix("+00:00") + " UTC" if title == "Date" and "+00:00" in value else value


def _norm_view(runs: Sequence[Run], norm: str) -> dict[str, Any]:
    """Curves and tables of one threat model."""
    top = upper_end(runs)
    names = _once(name for run in runs for name in run.attack_names(norm))
    mine = [run for run in runs if norm in run.norms]
    compared = run_curves(mine, norm)
    figures = []
    if len(compared) > 1:
        figures.append(("Worst case of each run", draw(compared, norm, f"worst case by run, {norm}", top)))
    for run in mine:
        title = f"{run.label}: score against radius, {norm}"
        figures.append((run.label, draw(attack_curves(run, norm, names), norm, title, top)))
    return {
        "name": norm,
        "figures": figures,
        "radii": sorted({r["eps"] for run in mine for r in run.attacked(norm) if r["eps"] is not None}),
        "blocks": [(run, _attack_views(run, norm)) for run in mine],
        "worst": [(run, {r["eps"]: r for r in run.at_radius(norm, WORST_CASE)}) for run in mine],
        "greedy": [(run, texts.shown_name(name), cells) for run in mine for name, cells in run.greedy(norm).items()],
        "in_words": _IN_WORDS.get(norm, ""),
    }


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
                "passes": _once(map(texts.passes, records)),
                "seconds": total(known) if known else None,
            }
        )
    return views


def _class_view(run: Run) -> dict[str, Any] | None:
    """IoU per class: clean and at the worst case of each radius."""
    worst = [record for norm in run.norms for record in run.at_radius(norm, WORST_CASE)]
    columns = ([("clean", run.clean)] if run.clean else []) + [(format_eps(r["eps"], r["norm"]), r) for r in worst]
    columns = [(title, record["iou"]) for title, record in columns if record["iou"]]
    by_class = list(itertools.zip_longest(*(iou for _, iou in columns)))
    names = [*run.class_names, *(f"class {i}" for i in range(len(run.class_names), len(by_class)))]
    colours = [*map(_css, run.palette), *["transparent"] * len(by_class)]
    rows = list(zip(names, colours, by_class, strict=False))
    return {"run": run, "columns": [title for title, _ in columns], "rows": rows} if rows else None


def _grid(run: Run) -> list[dict[str, Any]]:
    """The entries of the picture grid, with the norm of their attack."""
    norms = {record["name"]: record["norm"] for record in run.of_study(ATTACK)}
    return [{**entry, "norm": norms.get(entry["attack"], "Linf")} for entry in read_grid(run.path / "images")]


def _printable(value: Any) -> Any:
    """Text without control characters and without marks that turn the direction of what follows, such as U+202E."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in value)


def _css(colour: Sequence[int]) -> str:
    return "rgb({}, {}, {})".format(*colour)
