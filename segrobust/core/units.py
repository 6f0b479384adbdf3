"""Radii: floats in image units ([0, 1]) or strings such as ``"8/255"``; and from where on an image counts as broken."""

from __future__ import annotations

import math
import re

from segrobust.core.errors import UserError

DEFAULT_EPS = "4/255"  # the one radius wherever none is given
FOUND_SHARE = 0.99  # of the pixels of an image that count; with so many at the goal it is found, that is broken
_FRACTION = re.compile(r"^\s*(\d+(?:\.\d*)?|\.\d+)\s*/\s*(\d+(?:\.\d*)?)\s*$")


def parse_eps(value: float | str, norm: str = "Linf", name: str = "eps") -> float:
    """Turn ``0.03``, ``"0.03"`` or ``"8/255"`` into a radius in image units.

    Raises:
        UserError: not a number, negative, not finite, or above 1 for Linf (most likely a forgotten ``/255``).
    """
    match = None
    if isinstance(value, str) and (match := _FRACTION.match(value)) and float(match[2]) > 0:
        radius = float(match[1]) / float(match[2])
    else:
        try:
            radius = float("" if isinstance(value, bool) else value)
        except (TypeError, ValueError):
            raise UserError(f'{name}: expected a number or a fraction such as "8/255", got {value!r}') from None
    if not math.isfinite(radius) or radius < 0:
        raise UserError(f"{name}: expected a finite radius >= 0, got {value!r}")
    if norm == "Linf" and radius > 1:
        meant = float(match[1]) if match else radius
        hint = f'; did you mean "{meant:g}/255"?' if meant <= 255 else ""
        raise UserError(f"{name}: images lie in [0, 1], so a {norm} radius is at most 1, got {value!r}{hint}")
    return radius


def format_eps(eps: float, norm: str | None = "Linf") -> str:
    """``0.03137`` as ``8/255`` where it is a multiple of 0.05/255; a short decimal else and in other norms."""
    in_255 = eps * 255
    if norm == "Linf" and abs(in_255 * 20 - round(in_255 * 20)) < 1e-6 and in_255 <= 255:
        return f"{round(in_255 * 20) / 20:g}/255"
    return f"{eps:.5g}"


USUAL = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)  # radii of the literature, in 1/255
NEAR = 0.05


def usual_eps_near(value: float | str) -> str:
    """``"8/255"`` for 0.03, 0.0314 or ``"8/256"``: the usual Linf radius that was likely meant; empty where none was.

    1, the whole range of the pixels, is likely meant as ``"1/255"``.

    A radius written in 1/255 means what it says, and so does one that rounding in the fifth digit alone sets apart.
    """
    if isinstance(value, str) and value.replace(" ", "").endswith("/255"):
        return ""
    in_255 = 255 * parse_eps(value)
    if in_255 == 255:
        return "1/255"
    nearest = min(USUAL, key=lambda usual: abs(usual - in_255))
    return f"{nearest}/255" if 1e-4 < abs(in_255 / nearest - 1) < NEAR else ""
