"""What a run says of itself: whether its passes repeat bit for bit on its device and, where not, because of what.

``"yes"``, or ``"no (upsample_bicubic2d_backward, rand of net.noise)"``.
"""

from __future__ import annotations

from collections.abc import Iterable

REPEATABLE = "yes"
FIELD = "repeatable"  # of a run's identity


def as_text(names: Iterable[str]) -> str:
    """The operations that do not repeat, by their names; none: it repeats."""
    found = sorted(set(names))
    return f"no ({', '.join(found)})" if found else REPEATABLE


def merged(stored: object, now: object) -> str | None:
    """What two starts of one run know together: all that one of them has seen to vary; None where neither looked."""
    known = [one for one in (stored, now) if isinstance(one, str)]
    return as_text(name for one in known for name in _names(one)) if known else None


def _names(text: str) -> list[str]:
    return [] if text == REPEATABLE else text.removeprefix("no (").removesuffix(")").split(", ")
