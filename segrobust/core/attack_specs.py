"""Attacks as text: ``tsallis-pgd``, ``cospgd:published``, ``tsallis-pgd(norm=L2, q_start=-3)``. No code is run."""

from __future__ import annotations

import ast
from typing import Any

from segrobust.core.errors import UserError

OF_YOUR_OWN = "one of your own: name its file with --import, or in the config's custom_imports"
LONGEST = 2000  # characters; nothing that anyone writes is longer
CONSTANTS = {"true": True, "false": False, "none": None, "null": None}


def parse_spec(text: str) -> dict[str, Any]:
    """``"cospgd:published(steps=50)"`` as ``{"type": "cospgd", "preset": "published", "steps": 50}``.

    Values are numbers, true, false, none, lists (``[1, 2]``, ``1,2``), quoted text, and everything else is the text it
    is, such as ``L2`` or ``8/255``.

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
    parts, closed = _split_commas(fields[:-1])
    if not name or not fields.endswith(")") or not closed:
        raise _wrong(text, "its brackets and quotes do not match")
    for part in parts if fields[:-1].strip() else []:
        field, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not field.isidentifier() or not value:
            raise _wrong(text, f"{part.strip()!r} is not field=value")
        if field in found:
            raise _wrong(text, f"{field} stands there twice")
        try:
            found[field] = _value(value)
        except RecursionError:  # hundreds of brackets in each other
            found[field] = value
    return found


def _wrong(text: str, why: str) -> UserError:
    return UserError(f"attack: expected a text such as 'tsallis-pgd(norm=L2, q_start=-3)', got {text!r}: {why}")


def _value(text: str) -> Any:
    text = text.strip()
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    parts, _ = _split_commas(text)
    if len(parts) > 1:
        return [_value(part) for part in parts if part.strip()]
    if text[:1] + text[-1:] in ("[]", "()"):
        items = [_value(part) for part in _split_commas(text[1:-1])[0] if part.strip()]
        return items if text[0] == "[" else tuple(items)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _split_commas(text: str) -> tuple[list[str], bool]:
    """The parts between commas that stand in no bracket and no quotation, and whether all of these are closed."""
    parts, depth, quote, closed = [""], 0, "", True
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "[({":
            depth += 1
        elif char in "])}":
            depth -= 1
            closed = closed and depth >= 0
        if char == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return parts, closed and depth == 0 and not quote
