"""Blurs: a lens out of focus, frosted glass, a moving camera, a camera that moves towards the scene."""

from __future__ import annotations

import cv2
import numpy as np

from segrobust.datasets.corruptions.kernels import disk, gaussian, move, zoom


def defocus_blur(image: np.ndarray, _rng: np.random.Generator, radius: int, sigma: float) -> np.ndarray:
    """A disk of ``radius`` pixels with an edge smoothed by ``sigma``."""
    return cv2.filter2D(image, -1, disk(radius, sigma))


def glass_blur(image: np.ndarray, rng: np.random.Generator, sigma: float, reach: int, rounds: int) -> np.ndarray:
    """A Gaussian, ``rounds`` times pixels taken from up to ``reach`` away, and the Gaussian again."""
    image = gaussian(image, (sigma, sigma), 4, cv2.BORDER_REPLICATE)
    pixels = image.reshape(-1, 3)
    for _ in range(rounds):
        pixels = pixels[shuffled(image.shape[:2], rng, reach)]
    return gaussian(pixels.reshape(image.shape), (sigma, sigma), 4, cv2.BORDER_REPLICATE)


def shuffled(size: tuple[int, int], rng: np.random.Generator, reach: int) -> np.ndarray:
    """For each pixel the one whose colour it gets in a round of glass_blur, int64 [H * W].

    The published loop goes from the last pixel to the first and gives each the colour that a neighbour, at a distance
    in [-reach, reach) on both axes, has by then. (It is written as a swap, of which NumPy's views leave one half.) Here
    the chains of pixels that take from pixels that took before are followed by doubling, for all pixels at once.
    """
    index = np.arange(size[0] * size[1]).reshape(size)
    inner = index[reach + 1 : size[0] - reach + 1, reach + 1 : size[1] - reach + 1]
    y, x = rng.integers(-reach, reach, size=(2, *inner.shape))
    source, took_before = index.ravel().copy(), np.zeros(index.size, dtype=bool)
    source[inner.ravel()] = (inner + y * size[1] + x).ravel()
    took_before[inner.ravel()] = True
    open_ends = took_before[source] & (source > index.ravel())
    while open_ends.any():
        nearer = source[open_ends]
        source[open_ends], open_ends[open_ends] = source[nearer], open_ends[nearer]
    return source


def motion_blur(image: np.ndarray, rng: np.random.Generator, radius: int, sigma: float) -> np.ndarray:
    """A motion of 2 ``radius`` + 1 pixels whose weight falls as a Gaussian, at most 45 degrees from the horizontal."""
    return move(image, rng, radius, sigma, (-45, 45))


def zoom_blur(image: np.ndarray, _rng: np.random.Generator, layers: int, step: float) -> np.ndarray:
    """The mean of the image and of itself enlarged by 1, 1 + ``step``, ...: ``layers`` factors."""
    return (image + sum(zoom(image, 1 + step * layer) for layer in range(layers))) / (layers + 1)
