"""What the tables show of common corruptions: means by severity, and every type at every severity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segrobust.analysis.corruption import MEAN
from segrobust.analysis.summary import Record
from segrobust.core.rows import CORRUPTION
from segrobust.report.runs import Run
from segrobust.report.texts import points


def mean_lines(records: Sequence[Record]) -> list[tuple[str, Record]]:
    """``severity 1``, ..., ``all severities`` and their means over types; none without corruptions."""
    means = [record for record in records if record["study"] == CORRUPTION and record["name"] == MEAN]
    return [(f"severity {r['severity']}" if r["severity"] else "all severities", r) for r in means]


def corruption_view(run: Run) -> dict[str, Any] | None:
    """The two tables of a run; None without corruptions."""
    measured = [record for record in run.of_study(CORRUPTION) if record["name"] != MEAN]
    types: dict[str, dict[int, Record]] = {}
    for record in measured:
        types.setdefault(record["name"], {})[record["severity"]] = record
    severities = sorted({record["severity"] for record in measured})
    view = {"run": run, "means": mean_lines(run.records), "severities": severities, "types": types}
    return view if measured else None


def below_clean(record: Mapping[str, Any], metric: str) -> str:
    """``-12.34``: points that it lies below the clean score."""
    lost = record["degradation"]["points"][metric] if "degradation" in record else None
    return points(None if lost is None else 0.0 - lost)
