"""What the tables show of universal perturbations and patches, and of how far from a patch its effect reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segrobust.analysis.summary import Record
from segrobust.core.rows import CLEAN, UNIVERSAL
from segrobust.report.runs import Run
from segrobust.report.texts import points, with_radius


def universal_lines(records: Sequence[Record]) -> list[tuple[str, Record, dict[str, str]]]:
    """Name and radius, record, and by metric what it has more than the clean score; none without universal records."""
    clean = next((record for record in records if record["study"] == CLEAN), {})
    mine = [record for record in records if record["study"] == UNIVERSAL]
    return [(with_radius(r), r, {name: _change(clean.get(name), r[name]) for name in ("mIoU", "aAcc")}) for r in mine]


def _change(clean: float | None, score: float | None) -> str:
    return points(None if clean is None or score is None else score - clean)


def ring_table(records: Sequence[Record]) -> tuple[list[str], list[tuple[str, list[float | None]]]]:
    """Titles of the rings from the inside out, and per patch its name and the percent right in each of them."""
    patches = [record for record in records if record.get("regions")]
    within = {region["within"] for record in patches for region in record["regions"]}
    bounds = sorted(within - {None}) + [None] * (None in within)
    titles = ["beyond" if bound is None else f"\N{LESS-THAN OR EQUAL TO} {bound:g} px" for bound in bounds]
    rights = [{region["within"]: region["right"] for region in record["regions"]} for record in patches]
    return titles, [
        (with_radius(r), [right.get(one) for one in bounds]) for r, right in zip(patches, rights, strict=True)
    ]


def universal_view(run: Run) -> dict[str, Any] | None:
    """The two tables of a run; None without universal records."""
    lines = universal_lines(run.records)
    rings, patches = ring_table(run.records)
    return {"run": run, "lines": lines, "rings": rings, "patches": patches} if lines else None
