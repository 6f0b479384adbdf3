"""Every seed of the package, as a function of what it is for: no state, so nothing to save and nothing to restore.

Equal numbers give equal seeds on every machine, other ones independent seeds.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


def seed_of(seed: int, purpose: str, *place: int, bits: int = 63) -> int:
    """A seed in [0, 2**bits) for one purpose (``"attack"``) at one place (iteration, rank, image, ...)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *place))
    return int(sequence.generate_state(1, np.uint64)[0]) >> (64 - bits)


def mixed(*numbers: int, bits: int = 32) -> int:
    """A seed in [0, 2**bits) out of numbers alone, of at most 64 bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) & (2**bits - 1)


def image_seeds(seed: int, ids: Sequence[int]) -> list[int]:
    """One seed per image from the run's seed and the image's place in the data set."""
    return [mixed(seed, image) for image in ids]
