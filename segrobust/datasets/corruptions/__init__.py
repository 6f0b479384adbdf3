"""The 15 common corruptions at 5 severities: Hendrycks and Dietterich, ICLR 2019 (ImageNet-C).

    from segrobust.datasets.corruptions import CORRUPTIONS, corrupt
    foggy = corrupt(image, "fog", severity=3, seed=0)

The constants are those of ImageNet-C, in pixels as they are whatever the size of the image: the protocol of Pascal-C,
Coco-C and Cityscapes-C (Michaelis et al., 2019). Theirs is elastic_transform too, since ImageNet-C's moves the image by
up to 24 pixels away from its labels. Images are rounded to 8 bits before and after, and not saved as JPEG. Different:

- frost lays a procedural texture over the image, where the publications lay photographs: its numbers are **not
  comparable with published ones**;
- random numbers come from the given seed, never from a global state, so single images differ from published ones;
- any height and width will do: motion blur and snow repeat the border, zooms are about the centre, and fog is cut from
  a map whose side is the next power of two;
- motion is a kernel of whole pixels, as in Cityscapes-C, where ImageNet-C calls ImageMagick;
- results are rounded to 8 bits, where the publications cut off (half a level darker on average).

As published, a higher severity of glass_blur (2, 4) or frost (4) may be nearer to the clean image than the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from segrobust.core.errors import UserError, unknown_name
from segrobust.datasets.corruption_names import severity as checked_severity
from segrobust.datasets.corruptions import blur, digital, weather


class Corruption(NamedTuple):
    """``function(image, random generator, *constants) -> image``, float32 RGB [H, W, 3]; constants per severity."""

    function: Callable[..., np.ndarray]
    constants: tuple[tuple[float, ...], ...]


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(digital.gaussian_noise, ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,))),
    "shot_noise": Corruption(digital.shot_noise, ((60,), (25,), (12,), (5,), (3,))),
    "impulse_noise": Corruption(digital.impulse_noise, ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))),
    "defocus_blur": Corruption(blur.defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "glass_blur": Corruption(blur.glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion_blur": Corruption(blur.motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": Corruption(blur.zoom_blur, ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03))),
    "snow": Corruption(weather.snow, (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )),
    "frost": Corruption(weather.frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "fog": Corruption(weather.fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": Corruption(weather.brightness, ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))),
    "contrast": Corruption(digital.contrast, ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))),
    "elastic_transform": Corruption(digital.elastic_transform, ((12.5,), (16.25,), (21.25,), (25,), (30,))),
    "pixelate": Corruption(digital.pixelate, ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))),
    "jpeg_compression": Corruption(digital.jpeg_compression, ((25,), (18,), (15,), (10,), (7,))),
}  # fmt: skip


def corrupt(image: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    """The image under one common corruption (Hendrycks and Dietterich, 2019), the same for the same seed.

    Args:
        image: RGB in [0, 1], float32 [H, W, 3].
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: of the random numbers, if the corruption draws any; another one for every image.

    Returns:
        RGB in [0, 1], float32 [H, W, 3], whole multiples of 1/255.

    Raises:
        UserError: no such corruption or severity, or an image of another shape.
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    if image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"{name}: expected an RGB image [H, W, 3], got shape {list(image.shape)}")
    kind, rng = CORRUPTIONS[name], np.random.default_rng(seed)
    return _eight_bit(kind.function(_eight_bit(image), rng, *kind.constants[checked_severity(severity) - 1]))


def _eight_bit(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.rint(np.clip(image, 0, 1) * 255) / 255, dtype=np.float32)
