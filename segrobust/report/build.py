"""``report.html``: run folders in, one offline page out.

Everything that comes from a run is escaped by the template engine; figures and pictures are made here. Its scripts are
one that sorts tables and, where interactive curves were asked for, plotly.js and one that starts it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segrobust.checks.verdicts import NOT_TRUSTWORTHY, VERIFIED, WITH_WARNINGS
from segrobust.core.rows import ATTACK
from segrobust.core.units import format_eps
from segrobust.report import lines, texts
from segrobust.report.bibliography import bibliography
from segrobust.report.convergence import convergence_figures, last_gains
from segrobust.report.interactive import plotly_source
from segrobust.report.page import TEMPLATES, rendered, write_page
from segrobust.report.pairs import as_data, bounds, paired_runs
from segrobust.report.per_image import image_table
from segrobust.report.pictures import CHANGES, KINDS
from segrobust.report.readings import miou_readings, size_table
from segrobust.report.runs import Run, load_runs
from segrobust.report.survival import survival_figures
from segrobust.report.verdict import cost, threat_models, verdict
from segrobust.report.views import class_view, css, grid_of, head_facts, norm_view, once

_FILTERS = (
    texts.percent, texts.interval, texts.count, texts.passes, texts.points, texts.median_cell, texts.median_8bit,
    texts.format_distance, texts.judged, format_eps, bounds, lines.mean_lines, lines.severity_table, lines.below_clean,
    lines.universal_lines, lines.ring_table, verdict, cost, miou_readings, size_table, last_gains,
)  # fmt: skip
_TRUST_CLASSES = {VERIFIED: "good", WITH_WARNINGS: "doubtful", NOT_TRUSTWORTHY: "bad"}


def build_report(run_dirs: Sequence[Path], out: Path | None = None, interactive: bool = False) -> Path:
    """Write one HTML file about one run, or comparing several.

    Args:
        run_dirs: folders with ``run.json``, ``summary.json`` and, if pictures were kept, ``images/grid.json``.
        out: the file; by default ``report.html`` in the first folder.
        interactive: embed plotly.js (about 5 MB) for curves that answer to the mouse.

    Raises:
        UserError: a folder that is not a finished run, a file that cannot be written, or no plotly where it is needed.
    """
    runs = load_runs([Path(folder) for folder in run_dirs])
    path = Path(out) if out is not None else runs[0].path / "report.html"
    return write_page(path, render(runs, interactive))


def render(runs: Sequence[Run], interactive: bool = False) -> str:
    """The page as a string."""
    pairs = paired_runs(runs)
    attacked = once(record["norm"] for run in runs for record in run.of_study(ATTACK))
    plotting = [plotly_source(), (TEMPLATES / "plots.js").read_text(encoding="utf-8")] if interactive else []
    return rendered(
        "report.html.j2",
        _FILTERS,
        plotting,
        title=" vs ".join(run.label for run in runs) if len(runs) > 1 else runs[0].facts.get("model", runs[0].label),
        runs=runs,
        levels=_TRUST_CLASSES,
        threats=threat_models(runs),
        norms=[norm_view(runs, norm, interactive) for norm in once(norm for run in runs for norm in run.norms)],
        pairs=pairs,
        survival=[(norm, figures) for norm in attacked if (figures := survival_figures(runs, norm))],
        convergence=[(norm, figures) for norm in attacked if (figures := convergence_figures(runs, norm))],
        images=[(run, image_table(run)) for run in runs if run.clean],
        bibtex=bibliography(condition for run in runs for condition in run.conditions),
        **_about(runs),
        **_pictures(runs),
        data=json.dumps(_data(runs, pairs), indent=1),
    )


def _about(runs: Sequence[Run]) -> dict[str, Any]:
    """What the page says of the runs in single facts and short tables."""
    return {
        "head": head_facts(runs),
        "trusted": [run.label for run in runs if run.facts.get("checkpoint_trusted") == "true"],
        "kept": any("kept" in record for run in runs for record in run.records),
        "targets": [run for run in runs if "target.spec" in run.facts],
        "surrogates": [(run.label, run.facts["surrogates"]) for run in runs if "surrogates" in run.facts],
        "minimum_norm": [(run, record) for run in runs for record in run.records if "median_distance" in record],
        "costs": [(run, line) for run in runs for line in lines.cost_lines(run.records)],
        "classes": [view for run in runs if (view := class_view(run))],
    }


def _pictures(runs: Sequence[Run]) -> dict[str, Any]:
    colours = ((name, css(colour)) for run in runs for name, colour in zip(run.class_names, run.palette, strict=False))
    return {
        "grids": [(run, grid) for run in runs if (grid := grid_of(run))],
        "kinds": KINDS,
        "changes": {name: css(colour) for name, colour in CHANGES.items()},
        "swatches": once(colours),
    }


def _data(runs: Sequence[Run], pairs: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {"run": run.label, "facts": run.facts, "settings": run.settings, "records": run.records}
        | ({"trust": run.trust.level, "checks": run.trust.checks} if run.trust else {})
        | as_data(pairs, run.label)
        for run in runs
    ]
