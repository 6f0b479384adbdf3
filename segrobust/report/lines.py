"""What the page and the terminal both show of a run beside its attacks: costs, corruptions and universal changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from segrobust.analysis.corruption import MEAN
from segrobust.analysis.summary import Record
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.core.rows import ATTACK, CLEAN, CORRUPTION, UNIVERSAL
from segrobust.report.texts import passes, points, with_radius


class CostLine(NamedTuple):
    """One attack over all its radii, or all conditions of another study; texts, and "-" for what was not measured.

    passes: forwards + backwards per image and radius. rate: images/s of one process. memory: the most of any batch.
    """

    name: str
    norm: str
    passes: str
    rate: str
    memory: str


def searches(records: Sequence[Record]) -> list[Record]:
    """What was computed: no worst cases and means, and of a minimum-norm search one record for all its radii."""
    made = [one for one in records if one["study"] != WORST_CASE and one["name"] != MEAN]
    searched = {(one["name"], one["norm"]) for one in made if "median_distance" in one}
    return [one for one in made if "median_distance" in one or (one["name"], one["norm"]) not in searched]


def cost_lines(records: Sequence[Record]) -> list[CostLine]:
    """The lines of a run; no worst cases, and nothing that was not measured."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record["study"] != WORST_CASE and (record.get("images_per_second") or record.get("peak_bytes")):
            name = record["name"] if record["study"] in (CLEAN, ATTACK) else record["study"]
            groups[name, record["norm"] or ""].append(record)
    return [_cost_line(name, norm, members) for (name, norm), members in groups.items()]


def _cost_line(name: str, norm: str, records: Sequence[Record]) -> CostLine:
    searches = [record for record in records if "median_distance" in record] or records  # one, whatever its radii
    known = [record for record in searches if record.get("images_per_second")]
    seconds = sum(record["images"] / record["images_per_second"] for record in known)
    peaks = [record["peak_bytes"] for record in searches if record.get("peak_bytes")]
    rate = f"{sum(record['images'] for record in known) / seconds:.3g}" if known else "-"
    memory = f"{max(peaks) / 1e6:,.0f} MB" if peaks else "-"
    return CostLine(name, norm, ", ".join(dict.fromkeys(map(passes, searches))), rate, memory)


def mean_lines(records: Sequence[Record]) -> list[tuple[str, Record]]:
    """``severity 1``, ..., ``all severities`` and their means over types; none without corruptions."""
    means = [record for record in records if record["study"] == CORRUPTION and record["name"] == MEAN]
    return [(f"severity {r['severity']}" if r["severity"] else "all severities", r) for r in means]


def severity_table(records: Sequence[Record]) -> tuple[list[int], dict[str, dict[int, Record]]]:
    """The severities, and by type of corruption the record at each of them."""
    types: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        if record["study"] == CORRUPTION and record["name"] != MEAN:
            types[record["name"]][record["severity"]] = record
    return sorted({severity for cells in types.values() for severity in cells}), types


def below_clean(record: Record, metric: str) -> str:
    """``-12.34``: points that it lies below the clean score."""
    lost = record["degradation"]["points"][metric] if "degradation" in record else None
    return points(None if lost is None else 0.0 - lost)


def universal_lines(records: Sequence[Record]) -> list[tuple[str, Record, dict[str, str]]]:
    """Name and radius, record, and by metric what it has more than the clean score; none without universal records."""
    clean = next((record for record in records if record["study"] == CLEAN), {})
    mine = [record for record in records if record["study"] == UNIVERSAL]
    return [(with_radius(r), r, {name: _change(clean.get(name), r[name]) for name in ("mIoU", "aAcc")}) for r in mine]


def _change(clean: float | None, score: float | None) -> str:
    return points(None if clean is None or score is None else score - clean)


def ring_table(records: Sequence[Record]) -> tuple[list[str], list[tuple[str, list[float | None]]]]:
    """Titles of the rings from the inside out, and per patch its name and the percent right in each of them."""
    patches = [(r, {one["within"]: one["right"] for one in r["regions"]}) for r in records if r.get("regions")]
    within = {bound for _, rights in patches for bound in rights}
    bounds = sorted(within - {None}) + [None] * (None in within)
    titles = ["beyond" if bound is None else f"\N{LESS-THAN OR EQUAL TO} {bound:g} px" for bound in bounds]
    return titles, [(with_radius(r), [rights.get(bound) for bound in bounds]) for r, rights in patches]
