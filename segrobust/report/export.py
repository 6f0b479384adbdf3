"""Everything that runs are written as besides the page: tables, figures and a model card."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from segrobust.core.files import clear_io_errors, replace_file
from segrobust.report.exports import csv_text, different_data, images_sheet, latex_text, markdown_text, records_sheet
from segrobust.report.figures import write_figures
from segrobust.report.model_card import write_model_card
from segrobust.report.runs import Run, load_runs

_LOG = logging.getLogger(__name__)
_TABLES: dict[str, Callable[[Sequence[Run]], str]] = {
    "csv": lambda runs: csv_text(records_sheet(runs)),
    "rows_csv": lambda runs: csv_text(images_sheet(runs)),
    "latex": lambda runs: latex_text(records_sheet(runs)),
    "markdown": lambda runs: markdown_text(records_sheet(runs)),
}


def export(
    run_dirs: Sequence[Path],
    *,
    csv: Path | None = None,
    rows_csv: Path | None = None,
    latex: Path | None = None,
    markdown: Path | None = None,
    figures: Path | None = None,
    model_card: Path | None = None,
) -> list[Path]:
    """Write what is asked for about one run or several, and return the files.

    Args:
        csv: all numbers of the summaries, a line per condition; rows_csv: a line per image and condition.
        latex, markdown: the same as ``csv`` in a table for a paper or a README.
        figures: a folder of PDFs and SVGs; model_card: a README.md for the Hugging Face Hub.

    Raises:
        UserError: a folder that is not a finished run, a file that cannot be written, or runs that make no card.
    """
    runs = load_runs([Path(folder) for folder in run_dirs])
    if reason := different_data(runs):
        _LOG.warning("%s", reason)
    tables = {"csv": csv, "rows_csv": rows_csv, "latex": latex, "markdown": markdown}
    written = []
    for kind, path in tables.items():
        if path is not None:
            with clear_io_errors(f"create {Path(path).parent}", f"choose another {kind}"):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            replace_file(Path(path), _TABLES[kind](runs).encode())
            written.append(Path(path))
    written += write_figures(runs, Path(figures)) if figures is not None else []
    return written + (write_model_card(runs, Path(model_card)) if model_card is not None else [])
