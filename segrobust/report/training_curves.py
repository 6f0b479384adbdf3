"""The curves of a training over its iterations, or of several in the same panels: scores, loss, radius, rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from segrobust.report.curves import COLOURS, panels_svg
from segrobust.report.training import CLEAN, DISTANCE, ROBUST, Training
from segrobust.report.training_verdict import overfitting

_CLEAN_DASHES = (0, (5, 2))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Series:
    """One kind of number in a panel. scale: what its values are multiplied by. second: drawn dashed, such as clean."""

    name: str
    title: str
    scale: float = 1.0
    second: bool = False


@dataclass(frozen=True)
class Panel:
    """A plot of one kind of numbers. validation: they are scores in percent or distances, a marker each."""

    label: str
    series: tuple[Series, ...]
    validation: bool = False
    top: float | None = None


_EPS = Series("adv_eps", "radius or cap", 255)
LEARNING = (
    Panel("mIoU (%)", (Series(CLEAN, "clean", second=True), Series(ROBUST, "under attack")), True, 100),
    Panel("aAcc (%)", (Series("aAcc", "clean", second=True), Series("robust/aAcc", "under attack")), True, 100),
    Panel("median minimum norm (1/255 for Linf)", (Series(DISTANCE, "minimum norm"),), True),
)
COURSE = (
    Panel("training loss", (Series("loss", "loss"),)),
    Panel("radius in training (1/255)", (_EPS, Series("adv_distance", "mean norm", 255, True))),
    Panel("passes of the attack per image", (Series("adv_passes", "forwards and backwards"),)),
    Panel(
        "wrong pixels in training (%)",
        (Series("adv_pixel_error", "training attack", 100), Series("adv_probe_error", "stronger probe", 100, True)),
        top=100,
    ),
    Panel("learning rate", (Series("lr", "rate"),)),
)


def figures(trainings: Sequence[Training], panels: Sequence[Panel], title: str) -> Markup | None:
    """The panels that any training has points of, an SVG element each; None where there are none."""
    shown = [panel for panel in panels if any(_points(one, panel, s) for one in trainings for s in panel.series)]
    draw: Callable[[Axes, Any], list[str]] = lambda axis, number: _draw(axis, shown[number], trainings)  # noqa: E731
    labels = {number: panel.label for number, panel in enumerate(shown)}
    return panels_svg(title, labels, draw) if shown else None


def _points(training: Training, panel: Panel, series: Series) -> list[tuple[int, float]]:
    return [(at, series.scale * value) for at, value in training.points(series.name, panel.validation)]


def _draw(axis: Axes, panel: Panel, trainings: Sequence[Training]) -> list[str]:
    labels: list[str] = []
    for number, training in enumerate(trainings):
        for series in panel.series:
            if points := _points(training, panel, series):
                axis.plot(*zip(*points, strict=True), **_style(number, panel, series, len(trainings) == 1))
                labels.append(_label(training, series, len(panel.series), len(trainings)))
    if panel.validation:
        labels += _marks(axis, trainings)
    axis.set_xlabel("iteration")
    axis.set_ylabel(panel.label)
    axis.set_xlim(0, max(one.iterations for one in trainings))
    axis.set_ylim(0, panel.top and _round_top(axis, panel.top))
    return labels


def _style(number: int, panel: Panel, series: Series, alone: bool) -> dict[str, Any]:
    """Of one training a colour per series, of several a colour per training."""
    colour = COLOURS[number % len(COLOURS)] if not alone else COLOURS[0 if series.second else 3]
    line = {"color": colour, "linewidth": 1.8, "linestyle": _CLEAN_DASHES if series.second else "-"}
    marker = _MARKERS[number % len(_MARKERS)] if not alone else _MARKERS[0 if series.second else 2]
    return line | ({"marker": marker, "markersize": 5, "clip_on": False} if panel.validation else {})


def _label(training: Training, series: Series, kinds: int, trainings: int) -> str:
    if trainings == 1:
        return series.title
    return f"{training.label}, {series.title}" if kinds > 1 else training.label


def _marks(axis: Axes, trainings: Sequence[Training]) -> list[str]:
    """Where one training was best, and from where on it overfitted; several would hide each other."""
    if len(trainings) > 1:
        return []
    (training,) = trainings
    labels = []
    if training.best:
        axis.axvline(training.best.iteration, color="#888888", linewidth=1.2, linestyle=(0, (1.5, 1.5)), zorder=1)
        labels.append("best")
    if found := overfitting(training):
        axis.axvspan(found.best.iteration, found.last.iteration, color="#CC7700", alpha=0.15, linewidth=0)
    return labels


def _round_top(axis: Axes, top: float) -> float:
    """A round number above all points, so that small differences can be seen."""
    highest = max((float(max(line.get_ydata())) for line in axis.get_lines() if len(line.get_ydata()) > 0), default=top)
    return max(10.0, min(top, 10.0 * math.ceil((highest + 2) / 10)))
