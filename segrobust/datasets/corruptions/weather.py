"""Weather: snow, frost on the lens, fog, glaring daylight."""

from __future__ import annotations

import cv2
import numpy as np

from segrobust.datasets.corruptions.kernels import move, plasma, zoom

_ICE = np.array([0.57, 0.66, 0.70], dtype=np.float32)


def snow(
    image: np.ndarray,
    rng: np.random.Generator,
    mean: float,
    std: float,
    size: float,
    threshold: float,
    radius: int,
    sigma: float,
    kept: float,
) -> np.ndarray:
    """Flakes that fall: normal noise, enlarged, cut below ``threshold`` and blurred by motion, over a whitened image.

    The noise has ``mean`` and ``std`` and is enlarged by ``size``; the motion has ``radius`` pixels and the fall
    ``sigma``, within 45 degrees of the vertical; the share ``kept`` of the image is not whitened.
    """
    flakes = zoom(rng.normal(mean, std, size=image.shape[:2]).astype(np.float32), size)
    flakes = move(np.where(flakes < threshold, 0, np.minimum(flakes, 1)), rng, radius, sigma, (-135, -45))
    white = np.maximum(image, 1.5 * cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] + 0.5)
    return kept * image + (1 - kept) * white + (flakes + flakes[::-1, ::-1])[..., None]


def frost(image: np.ndarray, rng: np.random.Generator, kept: float, ice: float) -> np.ndarray:
    """``kept`` times the image plus ``ice`` times a texture of ice.

    The publications take the texture from five photographs of frozen windows, which are not ours to ship; `ice_texture`
    has their mean colour and contrast, not their look. Numbers are not comparable with published ones.
    """
    return kept * image + ice * ice_texture(image.shape[:2], rng)


def ice_texture(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Ice crystals on a window, float32 RGB [H, W, 3] in [0, 1]: needles in six directions over uneven haze."""
    grains = [np.maximum(rng.standard_normal(size, dtype=np.float32) - 2, 0) for _ in range(6)]
    needles = [move(grain, rng, 10, 8, (60 * side, 60 * side + 60)) for side, grain in enumerate(grains)]
    needle, haze = np.maximum.reduce(needles), plasma(size, rng, 1.4)
    texture = needle / (needle.std() + 1e-6) + haze / (haze.std() + 1e-6)
    contrast = 0.11 * (texture - texture.mean()) / (texture.std() + 1e-6)
    return np.clip(_ICE + contrast[..., None], 0, 1)


def fog(image: np.ndarray, rng: np.random.Generator, thickness: float, decay: float) -> np.ndarray:
    """The image plus ``thickness`` times a fractal height map, scaled back to the image's brightest value."""
    brightest = image.max()
    haze = thickness * plasma(image.shape[:2], rng, decay)[..., None]
    return (image + haze) * (brightest / (brightest + thickness))


def brightness(image: np.ndarray, _rng: np.random.Generator, more: float) -> np.ndarray:
    """``more`` added to the value in HSV, where hue and saturation stay: all channels times the same factor."""
    value = image.max(axis=2, keepdims=True)
    return np.where(value > 0, image / np.maximum(value, 1 / 255), 1) * np.minimum(value + more, 1)
