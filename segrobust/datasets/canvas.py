"""What a scene is painted on: colours, class ids and layers of one image, painted from back to front."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

VOID = 255
_OVERSAMPLING = 3


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Noise of about [-1, 1] that varies over ``1 / cells`` of the image: bilinear between random nodes, [H, W]."""
    nodes = rng.uniform(-1, 1, size=(cells + 1, cells + 1))
    y, x = (np.linspace(0, cells, n, endpoint=False) for n in size)
    row, column = y.astype(int), x.astype(int)
    fy, fx = (y - row)[:, None], (x - column)[None]
    upper = nodes[row][:, column] * (1 - fx) + nodes[row][:, column + 1] * fx
    lower = nodes[row + 1][:, column] * (1 - fx) + nodes[row + 1][:, column + 1] * fx
    return upper * (1 - fy) + lower * fy


class Canvas:
    """An image [H, W, 3] in [0, 1] with its ids [H, W]; shapes are given in fractions of width and height."""

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.size = self.height, self.width = size
        self.image = np.zeros((*size, 3))
        self.ids = np.full(size, VOID, dtype=np.uint8)
        self.layers = np.zeros(size, dtype=np.int64)
        self._layer = 0

    def rectangle(self, class_id: int, box: tuple[float, float, float, float], colour: np.ndarray) -> None:
        """Paint (left, top, right, bottom)."""
        left, top, right, bottom = box
        self.polygon(class_id, [(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def ellipse(self, class_id: int, box: tuple[float, float, float, float], colour: np.ndarray) -> None:
        """Paint the ellipse inside (left, top, right, bottom)."""
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        x = (box[0] + box[2]) / 2 + (box[2] - box[0]) / 2 * np.cos(angle)
        y = (box[1] + box[3]) / 2 + (box[3] - box[1]) / 2 * np.sin(angle)
        self.polygon(class_id, list(zip(x, y, strict=True)), colour)

    def polygon(self, class_id: int, points: list[tuple[float, float]], colour: np.ndarray, front: bool = True) -> None:
        """Paint a polygon with a colour [3] or a texture [H, W, 3]; ``front`` puts it on a layer of its own.

        The edge is blended by coverage; a pixel takes the id where at least half of it is covered.
        """
        large = Image.new("L", (self.width * _OVERSAMPLING, self.height * _OVERSAMPLING))
        scale = np.array([large.width, large.height])
        ImageDraw.Draw(large).polygon([tuple(p) for p in (np.asarray(points) * scale - 0.5).tolist()], fill=255)
        cover = np.asarray(large.resize((self.width, self.height), Image.Resampling.BOX)) / 255.0
        self.image += cover[..., None] * (colour - self.image)
        inside = cover >= 0.5
        self.ids[inside] = class_id
        if front:
            same = self._layer and self._last == class_id
            self._layer += 0 if same else 1
            self.layers[inside] = self._layer
            self._last = class_id

    def grain(self, rng: np.random.Generator) -> np.ndarray:
        """Fine grey texture of about [-1, 1], [H, W, 1]."""
        return smooth_noise(rng, self.size, max(self.size) // 3)[..., None]

    def windows(self, rng: np.random.Generator, period: tuple[float, float]) -> np.ndarray:
        """A grid of darker or brighter windows, [H, W, 1]; ``period`` is in fractions of (width, height)."""
        x = (np.arange(self.width) / self.width / period[0] + rng.random()) % 1 < 0.5
        y = (np.arange(self.height) / self.height / period[1] + rng.random()) % 1 < 0.5
        return rng.uniform(-0.3, 0.2) * (y[:, None] & x[None])[..., None]

    def label(self) -> np.ndarray:
        """The ids [H, W], void where a pixel touches (4 neighbours) an object painted in front of it."""
        padded = np.pad(self.layers, 1, mode="edge")
        highest = np.maximum.reduce([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
        return np.where(highest > self.layers, VOID, self.ids).astype(np.uint8)
