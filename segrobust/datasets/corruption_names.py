"""Names of the 15 common corruptions of Hendrycks and Dietterich (2019) in their four groups; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from segrobust.core.errors import UserError, unknown_name

GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
NAMES = tuple(name for names in GROUPS.values() for name in names)
SEVERITIES = (1, 2, 3, 4, 5)


def corruption_name(text: str) -> str:
    """A corruption's name (``gaussian-noise`` too), a group's, or ``all``; UserError: none of these."""
    name = str(text).lower().replace("-", "_")
    if name not in (*NAMES, *GROUPS, "all"):
        raise unknown_name("corruption", str(text), [*NAMES, *GROUPS, "all"])
    return name


def corruptions_named(names: Iterable[str]) -> tuple[str, ...]:
    """Each corruption that is named, or is in a group that is, once, in the order of the publication."""
    wanted = {member for name in names for member in (NAMES if name == "all" else GROUPS.get(name, (name,)))}
    return tuple(name for name in NAMES if name in wanted)


def severity(value: int | str) -> int:
    """1, 2, 3, 4 or 5; UserError: anything else."""
    if str(value) not in map(str, SEVERITIES):
        raise UserError(f"severity of a corruption: expected 1, 2, 3, 4 or 5, got {value!r}")
    return int(value)
