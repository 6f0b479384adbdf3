"""Seeds as a function of what they are for: no state, so nothing to save and nothing to restore."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


def seed_of(seed: int, purpose: str, *place: int, bits: int = 63) -> int:
    """A seed in [0, 2**bits) for one purpose (``"attack"``) at one place (iteration, rank, image, ...).

    Different purposes and places give independent seeds; the same ones give the same seed on every machine.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *place))
    return int(sequence.generate_state(1, np.uint64)[0]) >> (64 - bits)


def image_seeds(seed: int, ids: Sequence[int]) -> list[int]:
    """One seed per image from the run's seed and the image's place in the data set."""
    return [int(np.random.SeedSequence((seed, image)).generate_state(1)[0]) for image in ids]
