"""Images of one size fit into one tensor: which of them go together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping


def of_equal_size(sizes: Mapping[int, Hashable]) -> list[list[int]]:
    """Indices in groups of equal size, groups and members in the order of the mapping ``{index: size}``."""
    groups: dict[Hashable, list[int]] = {}
    for index, size in sizes.items():
        groups.setdefault(size, []).append(index)
    return list(groups.values())
