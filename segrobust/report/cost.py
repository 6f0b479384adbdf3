"""What each attack or study of a run took: passes, images per second and device memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segrobust.analysis.worst_case import WORST_CASE
from segrobust.core.rows import ATTACK, CLEAN
from segrobust.report.texts import passes

_MEASURED = ("images_per_second", "peak_bytes")


@dataclass(frozen=True)
class CostLine:
    """One attack over all its radii, or all conditions of another study; texts, and "-" for what was not measured.

    passes: forwards + backwards per image and radius. rate: images/s of one process. memory: the most of any batch.
    """

    name: str
    norm: str
    passes: str
    rate: str
    memory: str


def cost_lines(records: Sequence[Mapping[str, Any]]) -> list[CostLine]:
    """The lines of a run; no worst cases, and nothing that was not measured."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        if record["study"] != WORST_CASE and any(record.get(name) for name in _MEASURED):
            name = record["name"] if record["study"] in (CLEAN, ATTACK) else record["study"]
            groups[name, record["norm"] or ""].append(record)
    return [_line(name, norm, members) for (name, norm), members in groups.items()]


def _line(name: str, norm: str, records: Sequence[Mapping[str, Any]]) -> CostLine:
    searches = [record for record in records if "median_distance" in record] or records  # one, whatever its radii
    known = [record for record in searches if record.get("images_per_second")]
    seconds = sum(record["images"] / record["images_per_second"] for record in known)
    peaks = [record["peak_bytes"] for record in searches if record.get("peak_bytes")]
    spent = dict.fromkeys(map(passes, searches))
    return CostLine(
        name,
        norm,
        ", ".join(spent),
        f"{sum(record['images'] for record in known) / seconds:.3g}" if known else "-",
        f"{max(peaks) / 1e6:,.0f} MB" if peaks else "-",
    )
