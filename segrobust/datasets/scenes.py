"""Procedural street scenes: a data set that needs no download, small enough to train on in a minute.

A scene is painted from back to front on a `Canvas` (sky, trees, buildings, road, pavements, cars, signs, people),
then lit, blurred and made noisy. Pixels that touch an object in front of them are void, so that thin objects keep all
of theirs. The same seed gives the same scenes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from segrobust.core.errors import UserError
from segrobust.datasets.canvas import Canvas, smooth_noise

CLASSES = ("sky", "building", "road", "pavement", "tree", "pole", "sign", "car", "pedestrian")
PALETTE = ((128, 180, 230), (140, 60, 50), (128, 64, 128), (230, 130, 200), (70, 140, 40), (190, 190, 130),
           (240, 200, 0), (30, 30, 170), (220, 20, 60))  # fmt: skip
SKY, BUILDING, ROAD, PAVEMENT, TREE, POLE, SIGN, CAR, PEDESTRIAN = range(9)
SPLITS = ("train", "val", "test")


def write_scenes(root: str | Path, train: int, val: int, test: int, size: tuple[int, int] = (64, 96),
                 seed: int = 0) -> Path:  # fmt: skip
    """Write the three splits below ``root`` (once: a folder made with the same arguments is left as it is).

    Args:
        root: the folder to write.
        train, val, test: images per split, at least 1.
        size: (height, width) in pixels, at least 32x48.
        seed: every scene depends on (seed, split, number) alone.

    Raises:
        UserError: a bad count or size, or ``root`` holds something else.
    """
    root, counts = Path(root), dict(train=train, val=val, test=test)
    if min(counts.values()) < 1 or size[0] < 32 or size[1] < 48:
        raise UserError(f"scenes: expected at least 1 image per split of at least 32x48, got {counts} of {size}")
    recipe = dict(**counts, size=list(size), seed=seed)
    if _already_written(root, recipe):
        return root
    for split in SPLITS:
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(counts[split]):
            image, label = render_scene(size, seed, split, number)
            Image.fromarray(image).save(root / "images" / split / f"scene_{number:05d}.png")
            Image.fromarray(label).save(root / "labels" / split / f"scene_{number:05d}.png")
    content = dict(classes=list(CLASSES), palette=[list(colour) for colour in PALETTE], recipe=recipe)
    (root / "classes.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return root


def _already_written(root: Path, recipe: dict) -> bool:
    """True where ``root`` holds exactly this data set; classes.json is written last, so it marks a complete one."""
    marker = root / "classes.json"
    if not marker.is_file():
        return False
    try:
        found = json.loads(marker.read_text(encoding="utf-8")).get("recipe")
    except (ValueError, AttributeError):
        found = None
    if found != recipe:
        raise UserError(f"{root} holds another data set ({found}), wanted {recipe}; choose another folder or remove it")
    return True


def render_scene(size: tuple[int, int], seed: int, split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene: RGB uint8 [H, W, 3] and ids uint8 [H, W] (255 = void)."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    canvas = Canvas(size, rng)
    horizon = rng.uniform(0.38, 0.52)
    centre = rng.uniform(0.35, 0.65)
    _sky(canvas, rng, horizon)
    _buildings(canvas, rng, horizon)
    _ground(canvas, rng, horizon, centre)
    depths = np.sort(rng.uniform(0.08, 1.0, size=rng.integers(8, 15)))
    for depth in depths:
        thing = (_tree, _sign, _sign, _car, _car, _pedestrian, _pedestrian, _pedestrian)[rng.integers(8)]
        thing(canvas, rng, horizon, centre, float(depth))
    return _lit(canvas, rng), canvas.label()


def _sky(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    top = np.array([(0.35, 0.55, 0.85), (0.62, 0.64, 0.68), (0.75, 0.6, 0.5)][rng.integers(3)])
    fade = np.linspace(0, 1, canvas.height)[:, None, None] * np.array([0.25, 0.2, 0.15])
    clouds = 0.25 * smooth_noise(rng, canvas.size, 5)[..., None]
    canvas.rectangle(SKY, (0, 0, 1, 1), top + fade + clouds)


def _buildings(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    x = rng.uniform(-0.1, 0)
    while x < 1:
        width, gap = rng.uniform(0.1, 0.3), rng.uniform(0, 0.12) * (rng.random() < 0.5)
        colour = np.array([(0.55, 0.35, 0.3), (0.6, 0.57, 0.5), (0.4, 0.4, 0.43), (0.7, 0.62, 0.5)][rng.integers(4)])
        period = rng.uniform(0.02, 0.05), rng.uniform(0.04, 0.08)
        texture = colour * rng.uniform(0.75, 1.2) + canvas.windows(rng, period)
        canvas.rectangle(BUILDING, (x, horizon - rng.uniform(0.1, 0.4), x + width, horizon + 0.06), texture)
        x += width + gap


def _ground(canvas: Canvas, rng: np.random.Generator, horizon: float, centre: float) -> None:
    """Pavement below the horizon, the road on it as a trapezoid towards the vanishing point, lane marks on the road."""
    grey, half = rng.uniform(0.25, 0.42), rng.uniform(0.4, 0.62)
    paving = grey + rng.uniform(0.06, 0.2) + 0.08 * canvas.grain(rng) + np.array([0.03, 0.0, -0.02])
    canvas.rectangle(PAVEMENT, (0, horizon + 0.03, 1, 1), paving)
    asphalt = grey + 0.08 * canvas.grain(rng) + 0.06 * smooth_noise(rng, canvas.size, 4)[..., None]
    edge = [(centre - 0.04, horizon + 0.03), (centre + 0.04, horizon + 0.03), (centre + half, 1), (centre - half, 1)]
    canvas.polygon(ROAD, edge, asphalt)
    for start in np.arange(rng.uniform(0, 0.2), 1, 0.3):
        near, far = start**2, (start + 0.14) ** 2
        y0, y1 = (horizon + 0.05 + d * (0.95 - horizon) for d in (near, far))
        mark = [(centre - 0.012 * start, y0), (centre + 0.012 * start, y0), (centre + 0.016 * start, y1),
                (centre - 0.016 * start, y1)]  # fmt: skip
        canvas.polygon(ROAD, mark, np.full(3, 0.8), front=False)


def _place(rng: np.random.Generator, horizon: float, centre: float, depth: float, side: float) -> tuple[float, float]:
    """Where a thing stands: ``side`` 0 is the road's middle, 1 its edge, above 1 the pavement."""
    sign = 1 if rng.random() < 0.5 else -1
    return centre + sign * side * (0.06 + 0.45 * depth), horizon + 0.05 + depth * (0.9 - horizon)


def _tree(canvas: Canvas, rng: np.random.Generator, horizon: float, centre: float, depth: float) -> None:
    x, y = _place(rng, horizon, centre, depth, rng.uniform(1.2, 1.8))
    tall, wide = 0.2 + 0.35 * depth, 0.06 + 0.1 * depth
    bark = np.array([0.32, 0.24, 0.16])
    canvas.rectangle(TREE, (x - 0.1 * wide, y - 0.6 * tall, x + 0.1 * wide, y), bark)
    leaves = np.array([0.2, 0.36, 0.14]) * rng.uniform(0.7, 1.4) + 0.22 * canvas.grain(rng)
    for _ in range(3):
        cx, cy = x + rng.normal(0, 0.3 * wide), y - tall * rng.uniform(0.6, 0.95)
        canvas.ellipse(TREE, (cx - wide, cy - 0.3 * tall, cx + wide, cy + 0.3 * tall), leaves)


def _sign(canvas: Canvas, rng: np.random.Generator, horizon: float, centre: float, depth: float) -> None:
    """A pole on the pavement, mostly with a sign at its top."""
    x, y = _place(rng, horizon, centre, depth, rng.uniform(1.0, 1.4))
    tall, thick = 0.2 + 0.35 * depth, max(0.006 + 0.012 * depth, 1.2 / canvas.width)
    canvas.rectangle(POLE, (x - thick / 2, y - tall, x + thick / 2, y), np.full(3, rng.uniform(0.3, 0.65)))
    if rng.random() < 0.7:
        half = max(0.02 + 0.035 * depth, 2.0 / canvas.width)
        high = half * canvas.width / canvas.height
        colour = np.array([(0.8, 0.15, 0.12), (0.15, 0.3, 0.75), (0.85, 0.75, 0.15)][rng.integers(3)])
        shape = canvas.ellipse if rng.random() < 0.5 else canvas.rectangle
        shape(SIGN, (x - half, y - tall - high, x + half, y - tall + high), colour * rng.uniform(0.7, 1.1))


def _car(canvas: Canvas, rng: np.random.Generator, horizon: float, centre: float, depth: float) -> None:
    x, y = _place(rng, horizon, centre, depth, rng.uniform(0.1, 0.9))
    wide, tall = 0.03 + 0.13 * depth, 0.05 + 0.16 * depth
    paint = rng.uniform(0.1, 0.85, size=3) * 0.6 + rng.uniform(0.05, 0.35)
    canvas.polygon(CAR, [(x - 0.7 * wide, y - 0.6 * tall), (x - 0.5 * wide, y - tall), (x + 0.5 * wide, y - tall),
                         (x + 0.7 * wide, y - 0.6 * tall)], paint * 0.9)  # fmt: skip
    canvas.rectangle(CAR, (x - wide, y - 0.65 * tall, x + wide, y - 0.1 * tall), paint)
    glass, tyre = np.array([0.25, 0.3, 0.35]), np.full(3, 0.08)
    canvas.rectangle(CAR, (x - 0.45 * wide, y - 0.93 * tall, x + 0.45 * wide, y - 0.65 * tall), glass)
    for axle in (x - 0.7 * wide, x + 0.7 * wide):
        canvas.rectangle(CAR, (axle - 0.18 * wide, y - 0.2 * tall, axle + 0.18 * wide, y), tyre)


def _pedestrian(canvas: Canvas, rng: np.random.Generator, horizon: float, centre: float, depth: float) -> None:
    x, y = _place(rng, horizon, centre, depth, rng.uniform(0.6, 1.6))
    tall = 0.09 + 0.3 * depth
    wide = max(0.22 * tall * canvas.height / canvas.width, 1.3 / canvas.width)
    coat, legs = rng.uniform(0.1, 0.8, size=3), np.full(3, rng.uniform(0.08, 0.35))
    canvas.rectangle(PEDESTRIAN, (x - 0.4 * wide, y - 0.5 * tall, x + 0.4 * wide, y), legs)
    canvas.ellipse(PEDESTRIAN, (x - 0.7 * wide, y - 0.86 * tall, x + 0.7 * wide, y - 0.38 * tall), coat)
    skin = np.array([0.75, 0.58, 0.48]) * rng.uniform(0.5, 1.1)
    canvas.ellipse(PEDESTRIAN, (x - 0.4 * wide, y - tall, x + 0.4 * wide, y - 0.8 * tall), skin)


def _lit(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Shadow, exposure, colour cast, slight blur and sensor noise; RGB uint8."""
    shade = 1 - rng.uniform(0, 0.35) * (smooth_noise(rng, canvas.size, 3) > 0.1)[..., None]
    cast = rng.uniform(0.92, 1.08, size=3)
    lit = np.clip(canvas.image * shade * cast * rng.uniform(0.7, 1.2), 0, 1) ** rng.uniform(0.85, 1.2)
    soft = rng.uniform(0, 0.35)
    padded = np.pad(lit, ((1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
    noisy = (1 - soft) * lit + soft * blurred + rng.normal(0, rng.uniform(0.01, 0.03), lit.shape)
    return np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
