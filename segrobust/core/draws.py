"""Random numbers on any device, each a function of its key and its position alone.

    draws = Draws.of([7, 8], images.device)        # one key per image
    noise = draws.at(restart).uniform(3, height, width)

The words are those of SplitMix64 (Steele, Lea & Flood, 2014, "Fast splittable pseudorandom number generators"; in the
form and with the constants of Vigna's splitmix64.c), a counter passed through a mixing function. int64 arithmetic wraps
around and is the same everywhere: neither device, batch nor number of processes changes a bit. Nothing is stored: all
numbers of one stream come from the same bits, however often and of whatever kind, and ``at`` leads to others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segrobust.core.seeds import mixed

GAMMA, FIRST, SECOND = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))  # as int64
BITS = 24  # of a uniform number: all that float32 holds
HALF = 2**31


@dataclass(frozen=True)
class Draws:
    """One stream of random numbers per image.

    keys: ``[N]`` long, on the device where the numbers are wanted.
    """

    keys: Tensor

    @classmethod
    def of(cls, seeds: Sequence[int], device: torch.device | str = "cpu") -> Draws:
        """Of seeds from 0 to 2**64 - 1, one per image."""
        return cls(torch.tensor([mixed(seed, bits=63) for seed in seeds], dtype=torch.long, device=device))

    def at(self, number: int) -> Draws:
        """Other streams of the same images: those of a restart, of a step."""
        return Draws(_mix(self.keys.bitwise_not() + _wrapped((number + 1) * GAMMA)))

    def subset(self, rows: Tensor) -> Draws:
        """Those of some images, by long indices ``[M]``."""
        return Draws(self.keys[rows])

    def words(self, count: int) -> Tensor:
        """64 random bits at each position, ``[N, count]`` long."""
        position = torch.arange(1, count + 1, device=self.keys.device)
        return _mix(self.keys.unsqueeze(1) + position * GAMMA)

    def uniform(self, *shape: int) -> Tensor:
        """Even in [0, 1), ``[N, *shape]`` float32: multiples of 2**-24."""
        halves = self._halves(math.prod(shape))
        whole = halves.bitwise_right_shift_(32 - BITS).bitwise_and_(2**BITS - 1)
        return whole.float().mul_(2.0**-BITS).view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Of mean 0 and variance 1, ``[N, *shape]`` float32, by the inverse of the distribution function."""
        return self._by(lambda even: even.erfinv_().mul_(math.sqrt(2)), shape)

    def laplace(self, *shape: int) -> Tensor:
        """Of density exp(-|x|) / 2, ``[N, *shape]`` float32."""
        return self._by(lambda even: even.abs().neg_().log1p_().mul_(even.sign()).neg_(), shape)

    def _by(self, inverse: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
        """From numbers that are even in (-1, 1), in float64, where devices agree to far below float32's rounding, and
        image by image: a vectorised function of a CPU may depend on where in the memory a value lies."""
        halves = self._halves(math.prod(shape))
        return torch.stack([inverse((one.double() + 0.5) / HALF).float() for one in halves]).view(-1, *shape)

    def _halves(self, count: int) -> Tensor:
        """32 random bits each, ``[N, count]`` int32."""
        return self.words((count + 1) // 2).view(torch.int32)[:, :count]


def _wrapped(number: int) -> int:
    """The int64 with the lowest 64 bits of a number."""
    return (number + 2**63) % 2**64 - 2**63


def _mix(words: Tensor) -> Tensor:
    """The mixing function, in place."""
    for shift, factor in ((30, FIRST), (27, SECOND)):
        words.bitwise_xor_(_shifted(words, shift)).mul_(factor)
    return words.bitwise_xor_(_shifted(words, 31))


def _shifted(words: Tensor, shift: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (words >> shift).bitwise_and_(2 ** (64 - shift) - 1)
