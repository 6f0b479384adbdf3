"""Names of targets, ``class:road``, ``map:road=sidewalk,car=person``, ..., and of the pixels that are to reach them.

Imports no torch, so that a wrong one is refused at once; ``segrobust.datasets.targets`` and ``.where`` make them.
"""

from __future__ import annotations

from pathlib import Path

from segrobust.core.errors import UserError, unknown_name

PLAIN = ("background", "least-likely", "majority")
WITH_VALUE = {
    "class": "class:road or class:3",
    "mask": "mask:FILE or mask:FOLDER",
    "map": "map:road=sidewalk,car=person",
}
WHERE = {"class": "class:road or class:road,car", "mask": WITH_VALUE["mask"]}
REST = FREE, KEPT = "free", "kept"  # what pixels outside may do


def parse_target(text: str) -> tuple[str, str]:
    """The kind of a target and what stands after its colon: ``class:road`` -> ``("class", "road")``.

    Raises:
        UserError: no such kind, nothing after the colon, or a mask that does not exist.
    """
    kind, colon, value = text.partition(":")
    if kind in PLAIN and not colon:
        return kind, ""
    if kind not in WITH_VALUE:
        raise unknown_name("target", text, [*PLAIN, "class:NAME", "mask:FILE", "map:NAME=NAME"])
    if not value.strip():
        raise UserError(f"expected {WITH_VALUE[kind]}, got {text!r}")
    if kind == "mask" and not Path(value).exists():
        raise UserError(f"no such mask: {value!r}; expected a PNG of class ids, or a folder of them")
    if kind == "map":
        class_pairs(value)
    return kind, value


def class_pairs(text: str) -> dict[str, str]:
    """``road=sidewalk,car=person`` as ``{"road": "sidewalk", "car": "person"}``.

    Raises:
        UserError: a part that is no pair, or a class that is to become two.
    """
    pairs: dict[str, str] = {}
    for part in text.split(","):
        name, equals, wanted = (word.strip() for word in part.partition("="))
        if not (name and equals and wanted):
            raise UserError(f"expected {WITH_VALUE['map']}, got {part.strip()!r} in it")
        if name in pairs:
            raise UserError(f"class {name!r} is to become both {pairs[name]!r} and {wanted!r}; name it once")
        pairs[name] = wanted
    return pairs


def parse_where(text: str) -> tuple[str, str]:
    """The kind of a selection of pixels and what stands after its colon: ``class:a,b`` -> ``("class", "a,b")``.

    Raises:
        UserError: no such kind, nothing after the colon, or a mask that does not exist.
    """
    kind, _, value = text.partition(":")
    if kind not in WHERE:
        raise unknown_name("selection of pixels", text, ["class:NAME", "mask:FILE"])
    if not all(part.strip() for part in (value.split(",") if kind == "class" else [value])):
        raise UserError(f"expected {WHERE[kind]}, got {text!r}")
    if kind == "mask" and not Path(value).exists():
        raise UserError(f"no such mask: {value!r}; expected a PNG that is not 0 at the pixels to select, or a folder")
    return kind, value


def leaves_pixels_out(target: str) -> bool:
    """Whether some pixels may have no target, and so are not judged."""
    return target.partition(":")[0] in ("mask", "map")
