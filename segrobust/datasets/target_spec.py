"""Names of targets: ``background``, ``class:road``, ``least-likely``, ``majority``, ``mask:FILE``.

Imports no torch, so that a wrong target is refused at once; ``segrobust.datasets.targets`` makes the targets.
"""

from __future__ import annotations

from pathlib import Path

from segrobust.core.errors import UserError, unknown_name

PLAIN = ("background", "least-likely", "majority")
WITH_VALUE = {"class": "class:road or class:3", "mask": "mask:FILE or mask:FOLDER"}


def parse_target(text: str) -> tuple[str, str]:
    """The kind of a target and what stands after its colon: ``class:road`` -> ``("class", "road")``.

    Raises:
        UserError: no such kind, nothing after the colon, or a mask that does not exist.
    """
    kind, colon, value = text.partition(":")
    if kind in PLAIN and not colon:
        return kind, ""
    if kind not in WITH_VALUE:
        raise unknown_name("target", text, [*PLAIN, "class:NAME", "mask:FILE"])
    if not value.strip():
        raise UserError(f"expected {WITH_VALUE[kind]}, got {text!r}")
    if kind == "mask" and not Path(value).exists():
        raise UserError(f"no such mask: {value!r}; expected a PNG of class ids, or a folder of them")
    return kind, value
