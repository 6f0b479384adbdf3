"""Randomised models: the mean over known draws, for attacks to follow (EOT, Athalye et al., 2018, arXiv 1707.07397).

Here the loss is taken of the mean logits. Its gradient is the mean gradient of the logits, pulled back by ``samples``
backward passes in one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from segrobust.core.seeds import mixed


class Expectation(nn.Module):
    """Mean logits over ``samples`` forwards, each with a random state of its own; as many passes count.

    Draws are a function of the seed, the number of calls since ``begin`` and the sample, and through the shape of what
    is drawn of the batch: the same batches give the same numbers, on any number of processes.
    """

    def __init__(self, model: nn.Module, samples: int) -> None:
        super().__init__()
        self.model, self.samples = model, samples
        self.begin(0)

    def begin(self, seed: int) -> None:
        self._seed, self._calls = seed, 0

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[N,3,H,W]`` -> mean logits ``[N,K,H,W]``."""
        total = 0
        for sample in range(self.samples):
            with drawing((self._seed, self._calls, sample), images.device):
                total = total + self.model(images)
        self._calls += 1
        return total / self.samples


@contextmanager
def drawing(seed: tuple[int, ...], device: torch.device) -> Iterator[None]:
    """The global generators of torch, numpy and Python at a known state, and as before afterwards.

    A model's own generators are out of reach.
    """
    state = mixed(*seed)
    of_numpy, of_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(state)  # torch.manual_seed would set those of other devices too
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(state)
        np.random.seed(state)
        random.seed(state)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)
