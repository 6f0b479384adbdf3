"""Noise: independent for every pixel and channel. Values may leave [0, 1]; the caller clips."""

from __future__ import annotations

import numpy as np


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
