"""Which images of a batch go on: the one question in an attack's steps whose answer the host waits for."""

from __future__ import annotations

from torch import Tensor


def selected(chosen: Tensor) -> Tensor:
    """Long indices ``[M]`` of the images that are chosen, ``[N]`` bool; waits for the device."""
    return chosen.nonzero().flatten()
