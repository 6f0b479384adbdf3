"""Values in a text: numbers, lists, true, false and none; no code is run."""

from __future__ import annotations

import ast
from typing import Any

CONSTANTS = {"true": True, "false": False, "none": None, "null": None}


def parse_value(text: str) -> Any:
    """``1`` as int, ``[1,2]`` and ``1,2`` as list, ``true`` as bool, ``8/255`` and other text as text; runs no code."""
    try:
        return _value(text)
    except RecursionError:  # thousands of brackets in each other
        return text.strip()


def _value(text: str) -> Any:
    text = text.strip()
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    parts, _ = split_commas(text)
    if len(parts) > 1:
        return [_value(part) for part in parts if part.strip()]
    if text[:1] + text[-1:] in ("[]", "()"):
        items = [_value(part) for part in split_commas(text[1:-1])[0] if part.strip()]
        return items if text[0] == "[" else tuple(items)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def split_commas(text: str) -> tuple[list[str], bool]:
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
