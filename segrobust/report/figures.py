"""The curves of a report as files for papers: PDF and SVG, with fonts in them, the same bytes each time."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from segrobust.core.errors import UserError
from segrobust.core.files import clear_io_errors, replace_file
from segrobust.report.curves import STYLE, Curve, attack_curves, drawn, run_curves, upper_end
from segrobust.report.runs import Run

_FONTS = {"pdf.fonttype": 42, "svg.fonttype": "path"}  # TrueType, which journals take; outlines
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def write_figures(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Score against radius: per run and norm, and of several runs the worst cases; each as PDF and as SVG.

    Raises:
        UserError: no run has an attack at a radius, or a file cannot be written.
    """
    top, norms = upper_end(runs), list(dict.fromkeys(norm for run in runs for norm in run.norms))
    figures: list[tuple[str, str, list[Curve]]] = []
    for norm in norms:
        names = list(dict.fromkeys(name for run in runs for name in run.attack_names(norm)))
        compared = run_curves(runs, norm)
        figures += [("worst case", norm, compared)] if len(compared) > 1 else []
        figures += [(run.label, norm, attack_curves(run, norm, names)) for run in runs if norm in run.norms]
    if not figures:
        raise UserError("--figures: expected a run with attacks at radii, whose scores can be drawn; there is none")
    with clear_io_errors(f"create {folder}", "choose --figures that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for title, norm, curves in figures:
        name = _free(_NOT_IN_NAMES.sub("-", f"{title}-{norm}").strip("-."), {path.stem for path in written})
        with matplotlib.rc_context({**STYLE, **_FONTS, "svg.hashsalt": name}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure = drawn(curves, norm, top)
            for ending, data in (("pdf", _pdf(figure)), ("svg", _svg(figure))):
                written.append(folder / f"{name}.{ending}")
                replace_file(written[-1], data)
    return written


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _pdf(figure: Figure) -> bytes:
    stream = io.BytesIO()
    FigureCanvasPdf(figure).print_pdf(stream, metadata={"CreationDate": None})
    return stream.getvalue()


def _svg(figure: Figure) -> bytes:
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    return stream.getvalue().encode()
