"""Colours for classes without any."""

from __future__ import annotations


def default_palette(num_classes: int) -> list[tuple[int, int, int]]:
    """Distinct RGB colours in 0..255 per class, none of them black, which is for void: the colour map of PASCAL VOC
    from its second entry on (the bits of the number, spread over the high bits of red, green and blue)."""
    return [tuple(_bits(number >> channel) for channel in range(3)) for number in range(1, num_classes + 1)]


def _bits(code: int) -> int:
    """Every third bit of ``code``, lowest first, as the highest bits of a byte."""
    return sum(((code >> 3 * bit) & 1) << (7 - bit) for bit in range(8))
