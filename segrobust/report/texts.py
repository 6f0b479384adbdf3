"""How numbers and names are written, on the page and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from segrobust.analysis.summary import Record
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.core.units import format_eps

EN_DASH, INFINITY = "\N{EN DASH}", "\N{INFINITY}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def points(value: float | None) -> str:
    """``+1.23``; a dash where there is none."""
    return "-" if value is None else f"{value:+.2f}"


def interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.1f}{EN_DASH}{bounds[1]:.1f}"


def count(value: float | None) -> str:
    """A number of passes, whole ones without a decimal."""
    return "-" if value is None else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def passes(record: Record) -> str:
    """Forwards + backwards per image."""
    return f"{count(record['forwards'])} + {count(record['backwards'])}"


def shown_name(name: str) -> str:
    return name.replace("_", " ") if name == WORST_CASE else name


def with_norm(name: str, norm: str | None) -> str:
    return f"{name} ({norm})" if norm else name


def with_radius(record: Record) -> str:
    """``perturbation (Linf) 8/255``."""
    radius = "" if record["eps"] is None else f" {format_eps(record['eps'], record['norm'])}"
    return with_norm(record["name"], record["norm"]) + radius


def unit(norm: str) -> int:
    """What a radius is multiplied by to be shown: Linf radii are in 1/255, others in image units."""
    return 255 if norm == "Linf" else 1


def judged(record: Record) -> str:
    """``, 3 of them judged`` where some images have no pixel that counts."""
    count = record.get("judged")
    return "" if count in (None, record["images"]) else f", {count:.0f} of them judged"


def duration(seconds: float) -> str:
    """``2.4 hours``, ``13 minutes`` or ``41 seconds``."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def format_distance(distance: float | None, norm: str | None) -> str:
    """``0.83/255`` under Linf and image units elsewhere; an infinity sign for a distance that was not reached."""
    if distance is None:
        return INFINITY
    return f"{255 * distance:.3g}/255" if norm == "Linf" else f"{distance:.4g}"


def median_cell(record: Record) -> tuple[str, str]:
    """The median distance of a record and its interval, as text; no interval where none could be computed."""
    norm, median, bounds = record["norm"], record["median_distance"], record["ci"].get("median_distance")
    text = "not found" if median is None else format_distance(median, norm)
    if bounds is None:
        return text, ""
    low, high = (format_distance(bound, norm) for bound in bounds)
    return text, f"{low if bounds[1] is None else low.removesuffix('/255')}{EN_DASH}{high}"


def median_8bit(record: Record) -> str:
    """The median distance after rounding to 8 bits; a dash where that was not measured."""
    if "median_distance_8bit" not in record:
        return "-"
    median = record["median_distance_8bit"]
    return "lost" if median is None else format_distance(median, record["norm"])


def printable(value: Any) -> Any:
    """Text without control characters and without marks that turn the direction of what follows, such as U+202E."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in value)
