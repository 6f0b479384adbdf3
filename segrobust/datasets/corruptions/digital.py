"""Noise (values may leave [0, 1]; the caller clips), contrast, small distortions, low resolution, compression."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from segrobust.datasets.corruptions.kernels import gaussian


def gaussian_noise(image: np.ndarray, rng: np.random.Generator, std: float) -> np.ndarray:
    """Low light: normal noise of standard deviation ``std``."""
    return image + std * rng.standard_normal(image.shape)


def shot_noise(image: np.ndarray, rng: np.random.Generator, photons: float) -> np.ndarray:
    """Discrete light: a Poisson count of which white is ``photons``."""
    return rng.poisson(image.astype(np.float64) * photons) / photons


def impulse_noise(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Broken bits: each value is replaced with probability ``amount``, by 0 or 1 alike."""
    hit, white = rng.random(image.shape) < amount, rng.random(image.shape) < 0.5
    return np.where(hit, white, image)


def contrast(image: np.ndarray, _rng: np.random.Generator, factor: float) -> np.ndarray:
    """The difference from each channel's mean times ``factor``."""
    mean = image.mean(axis=(0, 1), dtype=np.float64)
    return mean + factor * (image - mean)


def elastic_transform(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Every pixel moved by a smooth random field, of 1 (severity 1) to 2.5 pixels (severity 5) standard deviation.

    The labels stay where they are, as in Cityscapes-C, whose definition this is: noise uniform within 0.005 of the
    height in both directions, smoothed by a Gaussian of 0.01 of height and width, times ``strength``.
    """
    height, width = image.shape[:2]
    noise = rng.uniform(-0.005 * height, 0.005 * height, size=(2, height, width)).astype(np.float32)
    smooth = [gaussian(part, (0.01 * height, 0.01 * width), 3, cv2.BORDER_REFLECT) for part in noise]
    y, x = np.mgrid[:height, :width].astype(np.float32) + strength * np.stack(smooth)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def pixelate(image: np.ndarray, _rng: np.random.Generator, scale: float) -> np.ndarray:
    """Height and width times ``scale`` by area, and back by the nearest pixel."""
    height, width = image.shape[:2]
    picture, small = _picture(image), (max(int(width * scale), 1), max(int(height * scale), 1))
    small_picture = picture.resize(small, Image.Resampling.BOX)
    return np.asarray(small_picture.resize((width, height), Image.Resampling.NEAREST)) / np.float32(255)


def jpeg_compression(image: np.ndarray, _rng: np.random.Generator, quality: int) -> np.ndarray:
    """The image after JPEG at ``quality``."""
    file = io.BytesIO()
    _picture(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / np.float32(255)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(image * 255).astype(np.uint8))
