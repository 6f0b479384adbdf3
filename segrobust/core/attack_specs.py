"""Attacks as text: ``tsallis-pgd``, ``cospgd:published``, ``tsallis-pgd(norm=L2, q_start=-3)``. No code is run."""

from __future__ import annotations

from typing import Any

from segrobust.core.errors import UserError
from segrobust.core.literals import parse_value, split_commas

OF_YOUR_OWN = "one of your own: name its file with --import, or in the config's custom_imports"
LONGEST = 2000  # characters; nothing that anyone writes is longer


def parse_spec(text: str) -> dict[str, Any]:
    """``"cospgd:published(steps=50)"`` as ``{"type": "cospgd", "preset": "published", "steps": 50}``.

    Values are read by :func:`segrobust.core.literals.parse_value`: numbers, true, false, none, lists, quoted text, and
    everything else as the text it is, such as ``L2`` or ``8/255``.

    Raises:
        UserError: anything but a name, with fields in brackets where there are any.
    """
    if len(text) > LONGEST:
        raise UserError(f"attack: expected at most {LONGEST} characters, got {len(text)}: {text[:40]!r}...")
    head, bracket, fields = text.strip().partition("(")
    name, colon, preset = (part.strip() for part in head.partition(":"))
    found: dict[str, Any] = {"type": name, **({"preset": preset} if colon else {})}
    if not bracket:
        return found
    parts, closed = split_commas(fields[:-1])
    if not name or not fields.endswith(")") or not closed:
        raise _wrong(text, "its brackets and quotes do not match")
    for part in parts if fields[:-1].strip() else []:
        field, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not field.isidentifier() or not value:
            raise _wrong(text, f"{part.strip()!r} is not field=value")
        if field in found:
            raise _wrong(text, f"{field} stands there twice")
        found[field] = parse_value(value)
    return found


def _wrong(text: str, why: str) -> UserError:
    return UserError(f"attack: expected a text such as 'tsallis-pgd(norm=L2, q_start=-3)', got {text!r}: {why}")
