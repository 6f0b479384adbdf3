"""Who stands where: entries of one division, data, images and norm are ranked against each other, at one radius."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from segrobust.core.units import format_eps
from segrobust.core.version import __version__
from segrobust.leaderboard.entry import FORMAT, Entry
from segrobust.leaderboard.rules import DIVISIONS, RULES


def table_of(entries: Sequence[Entry]) -> dict[str, Any]:
    """The content of ``leaderboard.json``: the rules, and the entries in groups, ranked ones first.

    An entry of a group is that of ``entries/<id>.json`` with ``rank`` and ``clean_rank`` among the ranked ones (null
    without) and ``rank_change``, by how many places it stands higher under attack than on clean images.
    """
    groups: dict[tuple, list[Entry]] = defaultdict(list)
    for entry in entries:
        data = entry["data"]
        names = ("name", "protocol", "metric_size", "images", "fingerprint", "recipe", "classes")
        same = tuple(str(data[name] or "") for name in names)
        groups[(DIVISIONS.index(entry["division"]), same, entry["threat_model"]["norm"])].append(entry)
    ordered = [_group(groups[key]) for key in sorted(groups)]
    return {"format": FORMAT, "segrobust": __version__, "rules": RULES, "groups": ordered}


def ranked_score(entry: Entry) -> float | None:
    """The lowest known robust mIoU at the ranked radius; None where there is no result."""
    found = [one["best_known"]["mIoU"] for one in entry["robust"] if one["eps"] == entry["ranked_at"]]
    return found[0] if found else None


def _group(entries: Sequence[Entry]) -> dict[str, Any]:
    ranked = [entry for entry in entries if not entry["not_ranked"]]
    robust, clean = _ranks(ranked, ranked_score), _ranks(ranked, lambda entry: entry["clean"]["mIoU"])
    shown = [
        {"rank": robust.get(one["id"]), "clean_rank": clean.get(one["id"]), **one}
        | {"rank_change": clean[one["id"]] - robust[one["id"]] if one["id"] in robust else None}
        for one in entries
    ]
    shown.sort(key=lambda one: (one["rank"] is None, one["rank"] or 0, one["id"]))
    first = entries[0]
    norm = first["threat_model"]["norm"]
    named = first["data"]["protocol"] or first["data"]["name"]
    return {
        "title": f"{named}, {first['data']['images']} images, {norm}",
        "division": first["division"],
        "data": first["data"],
        "norm": norm,
        "ranked_at": None if first["ranked_at"] is None else format_eps(first["ranked_at"], norm),
        "entries": shown,
    }


def _ranks(entries: Sequence[Entry], score: Callable[[Entry], float | None]) -> dict[str, int]:
    """1 for the highest score; equal ones share a rank."""
    scores = {entry["id"]: score(entry) for entry in entries}
    return {name: 1 + sum(other > own for other in scores.values()) for name, own in scores.items()}
