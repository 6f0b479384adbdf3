"""What several corruptions are made of: filters that keep a constant image constant, and a random height map."""

from __future__ import annotations

import cv2
import numpy as np

_TINY = 1e-12  # a map of one pixel is flat


def gaussian(image: np.ndarray, sigma: tuple[float, float], truncate: float, border: int) -> np.ndarray:
    """The image under a Gaussian of ``sigma`` (y, x) pixels, cut off at ``truncate`` sigma."""
    height, width = (2 * int(truncate * s + 0.5) + 1 for s in sigma)
    return cv2.GaussianBlur(image, (width, height), sigmaX=sigma[1], sigmaY=sigma[0], borderType=border)


def disk(radius: int, sigma: float) -> np.ndarray:
    """A uniform disk of ``radius`` pixels whose edge is smoothed by a Gaussian; sums to 1."""
    axis = np.arange(-radius - 2, radius + 3)
    inside = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(inside, (5, 5), sigma, borderType=cv2.BORDER_CONSTANT)
    return kernel / kernel.sum()


def motion(radius: int, sigma: float, angle: float) -> np.ndarray:
    """One half of a Gaussian, 2 ``radius`` + 1 pixels along a line from the centre; sums to 1.

    The pixels of that line are those that lie at ``angle`` degrees from the blurred one: 0 to its right, 90 below.
    """
    step = np.arange(2 * radius + 1)
    weight = np.exp(-(step**2) / (2 * sigma**2))
    y, x = (np.ceil(step * part - 0.5).astype(int) for part in (np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))))
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1), dtype=np.float32)
    np.add.at(kernel, (2 * radius + y, 2 * radius + x), weight / weight.sum())
    return kernel


def move(image: np.ndarray, rng: np.random.Generator, radius: int, sigma: float, angles: tuple[int, int]) -> np.ndarray:
    """The image blurred by a motion at a random angle between two, in degrees."""
    kernel = motion(radius, sigma, rng.uniform(*angles))
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)


def zoom(image: np.ndarray, factor: float) -> np.ndarray:
    """The image enlarged about its centre, bilinear, cut to its size.

    As in SciPy's zoom, which the publications call, the first and last of n = ceil(size / factor) pixels become the
    first and last of factor n: slightly more than ``factor``. Noise enlarged by a whole factor would vary more.
    """
    matrix = np.zeros((2, 3))
    for axis, size in enumerate((image.shape[1], image.shape[0])):
        cut = int(np.ceil(size / factor))
        matrix[axis, axis] = scale = (round(cut * factor) - 1) / (cut - 1) if cut > 1 else factor
        matrix[axis, 2] = (1 - scale) * (size - 1) / 2
    return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def plasma(size: tuple[int, int], rng: np.random.Generator, decay: float) -> np.ndarray:
    """A fractal height map in [0, 1], float32 [H, W], by the diamond-square algorithm on a torus.

    Each halving of the grid divides the random part of a height, uniform about 0, by ``decay`` squared: ImageNet-C
    multiplies two factors that each fall by ``decay``.
    """
    heights, amplitude = np.zeros((1, 1)), 1.0
    while len(heights) < max(size):
        below = np.roll(heights, -1, axis=0)
        noise = amplitude * rng.uniform(-1, 1, size=(3, *heights.shape))
        centre = (heights + below + np.roll(heights + below, -1, axis=1)) / 4 + noise[0]
        top = (heights + np.roll(heights, -1, axis=1) + centre + np.roll(centre, 1, axis=0)) / 4 + noise[1]
        left = (heights + below + centre + np.roll(centre, 1, axis=1)) / 4 + noise[2]
        finer = np.empty((2 * len(heights), 2 * len(heights)))
        finer[::2, ::2], finer[::2, 1::2], finer[1::2, ::2], finer[1::2, 1::2] = heights, top, left, centre
        heights, amplitude = finer, amplitude / decay**2
    heights -= heights.min()
    return (heights / max(heights.max(), _TINY))[: size[0], : size[1]].astype(np.float32)
