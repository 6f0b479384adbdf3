"""``index.html``: the content of ``leaderboard.json`` as one offline page that can be sorted and searched.

The template engine escapes everything that comes from an entry. The page may run its own script alone, by its digest,
and loads nothing; it says so to the browser in its content security policy.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segrobust.leaderboard.rules import DIVISIONS
from segrobust.report.texts import count, format_distance, interval, percent, printable

_FOLDER = Path(__file__).parent / "templates"
_SIGNS = {"verified": "✓", "with warnings": "!", "not trustworthy": "✗"}


def render(table: Mapping[str, Any]) -> str:
    """The page as a string, the same for the same content."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "count": count, "distance": format_distance}
    script, style = (Markup((_FOLDER / name).read_text(encoding="utf-8")) for name in ("page.js", "page.css"))  # noqa: S704
    return environment.get_template("index.html.j2").render(
        table=table,
        divisions=[
            (name, [(one, _view(one)) for one in table["groups"] if one["division"] == name]) for name in DIVISIONS
        ],
        signs=_SIGNS,
        script=script,
        style=style,
        script_hash=_digest(script),
        style_hash=_digest(style),
    )


def _digest(text: str) -> str:
    """As a content security policy names what stands between two tags."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _view(group: Mapping[str, Any]) -> dict[str, Any]:
    """The radii of a group's table by their words, and its cells by entry and radius."""
    radii = {one["eps"]: one["radius"] for entry in group["entries"] for one in entry["robust"]}
    cells = {entry["id"]: {one["eps"]: one for one in entry["robust"]} for entry in group["entries"]}
    shown = {
        name: any(entry[name] is not None for entry in group["entries"]) for name in ("minimum_norm", "corruptions")
    }
    return {"radii": dict(sorted(radii.items())), "cells": cells, "shown": shown}
