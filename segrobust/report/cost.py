"""What each attack of a run took: passes, images per second and device memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segrobust.analysis.summary import WORST_CASE

_MEASURED = ("images_per_second", "peak_bytes")


@dataclass(frozen=True)
class CostLine:
    """One attack over all its radii; texts, and "-" for what was not measured.

    passes: forwards + backwards per image and radius. rate: images/s of one process. memory: the most of any batch.
    """

    attack: str
    norm: str
    passes: str
    rate: str
    memory: str


def cost_lines(records: Sequence[Mapping[str, Any]]) -> list[CostLine]:
    """The lines of a run; no worst cases, and nothing that was not measured."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        if record["attack"] != WORST_CASE and any(record.get(name) for name in _MEASURED):
            groups[record["attack"], record["norm"] or ""].append(record)
    return [_line(attack, norm, members) for (attack, norm), members in groups.items()]


def _line(attack: str, norm: str, records: Sequence[Mapping[str, Any]]) -> CostLine:
    searches = [record for record in records if "median_distance" in record] or records  # one, whatever its radii
    known = [record for record in searches if record.get("images_per_second")]
    seconds = sum(record["images"] / record["images_per_second"] for record in known)
    peaks = [record["peak_bytes"] for record in searches if record.get("peak_bytes")]
    spent = dict.fromkeys(map(passes, searches))
    return CostLine(
        attack,
        norm,
        ", ".join(spent),
        f"{sum(record['images'] for record in known) / seconds:.3g}" if known else "-",
        f"{max(peaks) / 1e6:,.0f} MB" if peaks else "-",
    )


def passes(record: Mapping[str, Any]) -> str:
    """Forwards + backwards per image."""
    return f"{count(record['forwards'])} + {count(record['backwards'])}"


def count(value: float | None) -> str:
    """A number of passes, whole ones without a decimal."""
    return "-" if value is None else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
