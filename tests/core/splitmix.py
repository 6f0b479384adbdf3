"""SplitMix64 and what is drawn from it, in whole numbers of Python."""

from __future__ import annotations

import numpy as np

WORD = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(state: int) -> int:
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & WORD
    return state ^ (state >> 31)


def word(key: int, position: int) -> int:
    """Output number ``position``, from 0 on, of the generator that starts at ``key``."""
    return mix((key + (position + 1) * GAMMA) & WORD)


def key_of(seed: int) -> int:
    return int(np.random.SeedSequence((seed,)).generate_state(1, np.uint64)[0]) & (2**63 - 1)


def at(key: int, number: int) -> int:
    return word(~key & WORD, number)


def halves(key: int, count: int) -> list[int]:
    """32 bits each, the lower ones of a word first."""
    return [word(key, n // 2) >> 32 * (n % 2) & (2**32 - 1) for n in range(count)]


def uniform_of(seed: int, restart: int, count: int) -> list[float]:
    """Of one image and restart, in [0, 1)."""
    return [(half >> 8) / 2**24 for half in halves(at(key_of(seed), restart), count)]
