"""A printable patch for all images of a data set: fitted on some images, measured on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from segrobust.attacks.universal import GREY, Applied, Universal
from segrobust.core.errors import UserError
from segrobust.core.seeds import seed_of


@dataclass(frozen=True, kw_only=True)
class UniversalPatch(Universal):
    """A patch of 8-bit colours in place of some pixels (Brown et al., 2017, arXiv 1712.09665; on segmenters, Nesti et
    al., 2022, arXiv 2108.06179), for images of any size that it fits in.

    The pixels under it have no influence on the fit and count nowhere.

    Args:
        patch: its (height, width) in pixels.
        place: ``"centre"``, ``"random"`` (new in every step of the fit; in ``apply``, from the image's seed alone) or
            (y, x) of its upper left corner.
    """

    patch: tuple[int, int] = (40, 40)
    place: str | tuple[int, int] = "centre"

    covers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "patch", self._pair("patch", 1))
        if isinstance(self.place, str):
            self._one_of(place=("centre", "random"))
        else:
            object.__setattr__(self, "place", self._pair("place", 0))

    def _pair(self, field: str, lowest: int) -> tuple[int, int]:
        pair = getattr(self, field)
        whole = isinstance(pair, Sequence) and all(isinstance(n, int) and n >= lowest for n in pair)
        if not whole or len(pair) != 2:
            raise UserError(f"{self.name}: expected {field} to be two whole numbers >= {lowest}, got {pair!r}")
        return tuple(pair)

    @property
    def title(self) -> str:
        size = "" if self.patch == UniversalPatch.patch else " {}x{}".format(*self.patch)
        places = {"centre": "", "random": " at random"}
        place = places[self.place] if isinstance(self.place, str) else " at {},{}".format(*self.place)
        return self._titled(f"patch{size}{place}")

    @property
    def ball(self) -> tuple[str, float]:
        return "Linf", GREY

    def size(self, images: Tensor) -> tuple[int, int]:
        return self.patch

    def fitted(self, canvas: Tensor) -> Tensor:
        return canvas.mul(255).round().div(255)

    def apply(self, fitted: Tensor, images: Tensor, seeds: Sequence[int]) -> Applied:
        attacked, covered = images.clone(), torch.zeros_like(images[:, 0], dtype=torch.bool)
        for n, window in enumerate(self._windows(images, seeds)):
            attacked[n][window] = fitted
            covered[n][window[1:]] = True
        return Applied(attacked, covered)

    def collect(self, gradient: Tensor, fitted: Tensor, images: Tensor, seeds: Sequence[int]) -> Tensor:
        return torch.stack([gradient[n][window] for n, window in enumerate(self._windows(images, seeds))]).sum(0)

    def _windows(self, images: Tensor, seeds: Sequence[int]) -> list[tuple[slice, slice, slice]]:
        """Where the patch lies in every image: all channels, rows and columns."""
        (high, wide), room = self.patch, [whole - own for whole, own in zip(images.shape[2:], self.patch, strict=True)]
        if min(room) < 0 or (isinstance(self.place, tuple) and any(np.greater(self.place, room))):
            at = self.place if isinstance(self.place, str) else f"(y, x) = {self.place}"
            raise UserError(
                f"{self.name}: expected a patch inside the images of {images.shape[2]}x{images.shape[3]}, got one of "
                f"{high}x{wide} at {at}; make it smaller or move it"
            )
        corners = [self._corner(room, seed) for seed in seeds]
        return [(slice(None), slice(y, y + high), slice(x, x + wide)) for y, x in corners]

    def _corner(self, room: Sequence[int], seed: int) -> tuple[int, int]:
        if self.place == "centre":
            return room[0] // 2, room[1] // 2
        if self.place == "random":
            return tuple(np.random.default_rng(seed_of(seed, "patch place")).integers(0, room, endpoint=True).tolist())
        return self.place
