"""APGD on an objective that takes scripted values whatever the points: every step against the published algorithm."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from segrobust.attacks.gradient import Measurement
from segrobust.attacks.optimise import BestIterate, Stage, apgd
from segrobust.core.threats import THREATS
from tests.known_answer.trace import assert_same

STEPS = 100
WINDOWS = (22, 19, 16, 13, 10, 7, 6, 6)  # up to steps 22, 41, 57, 70, 80, 87, 93 and 99


def window(length, increases, fresh, first, best, generator):
    """Values of the objective: the first, then that many increases, the last of which makes a new best or does not.
    Every other of the rest stays level."""
    ups = (torch.arange(length - 1) < increases)[torch.randperm(length - 1, generator=generator)].tolist()
    last = max(n for n, up in enumerate(ups) if up)
    value = first
    values = [value]
    for n, up in enumerate(ups):
        value = best + 1 if fresh and n == last else value + 0.01 if up else value - 0.01 * (n % 2)
        values.append(value)
    return values


PLANS = {  # increases in a window of that length, whether it has a new best, and whether it begins below that
    "just enough increases": lambda length, number: (3 * length // 4 + 1, True, False),
    "one too few": lambda length, number: (3 * length // 4, True, False),
    "more than half, but not enough": lambda length, number: (length // 2 + 1, True, False),
    "enough without a new best": lambda length, number: (3 * length // 4 + 1, False, False),
    "by turns": lambda length, number: (3 * length // 4 + number % 2, number % 3 == 0, False),
    "up from the last value, down from the best": lambda length, number: (
        3 * length // 4 + number % 2,
        number % 2 == 1,
        number % 2 == 1,
    ),
}


def script(plan, generator):
    """A window begins below all values before, which counts as an increase in the first window alone; or between the
    last value and the best, which is an increase although the points may have gone back to the best."""
    values = [0.0]
    for number, length in enumerate(WINDOWS):
        increases, fresh, between = plan(length, number)
        first = (values[-1] + max(values)) / 2 if between else min(values) - 1
        values += window(length, increases - (between or number == 0), fresh, first, max(values), generator)
    return values


def published(start, clean, eps, values, gradients, first_step):
    """Algorithm 1 of arXiv 2003.01690 in Linf, with the constants of its section 4: the points of every forward.

    As in its code, a value is compared with that of the point before it, gone back or not, and the first with nothing.
    """

    def inside(points):
        return (clean + (points - clean).clamp(-eps, eps)).clamp(0, 1)

    now = before = best_points = start
    gradient = best_gradient = gradients[0]
    size, best, best_before, increases, since, just_halved = first_step * eps, values[0], values[0], 0, 0, True
    length, path = int(0.22 * STEPS), [start]
    for step in range(1, STEPS + 1):
        ahead = inside(now + size * gradient.sign())
        if step > 1:
            ahead = inside(now + 0.75 * (ahead - now) + 0.25 * (now - before))
        before, now = now, ahead
        path.append(now)
        if step == STEPS:
            return path
        gradient, since = gradients[step], since + 1
        increases += step == 1 or values[step] > values[step - 1]
        if values[step] >= best:
            best, best_points, best_gradient = values[step], now, gradient
        if since == length:
            no_better = not just_halved and best <= best_before
            just_halved = increases <= 0.75 * length or no_better
            if just_halved:
                size, now, gradient = size / 2, best_points, best_gradient
            best_before, increases, since = best, 0, 0
            length = max(length - int(0.03 * STEPS), int(0.06 * STEPS))


@pytest.mark.parametrize("first_step", [2.0, 0.5])
@pytest.mark.parametrize("how", ["ce", "error", "targeted"])
def test_every_point_is_that_of_the_published_algorithm(how, first_step):
    generator = torch.Generator().manual_seed(4)
    clean = torch.rand(len(PLANS), 3, 2, 2, generator=generator, dtype=torch.float64)
    eps = 0.05 + 0.1 * torch.rand(len(PLANS), generator=generator, dtype=torch.float64)
    start = THREATS["Linf"].project(clean + torch.randn(clean.shape, generator=generator), clean, eps)
    gradients = torch.randn(STEPS, *clean.shape, generator=generator, dtype=torch.float64)
    values = torch.tensor([script(plan, generator) for plan in PLANS.values()], dtype=torch.float64).T
    path = []

    def measure(points, step):
        path.append(points)
        nothing = torch.zeros_like(values[step])
        ce, error = {"ce": (values, nothing), "error": (nothing, values), "targeted": (-values, nothing)}[how]
        return Measurement(*(one[step] if one.ndim > 1 else one for one in (ce, error)), gradients[step % STEPS])

    engine = SimpleNamespace(
        goal=SimpleNamespace(targeted=how == "targeted"), measure=lambda points: measure(points, STEPS)
    )
    values = torch.cat([values, values[-1:]])
    stage = Stage(SimpleNamespace(clean=clean, engine=engine, class_weights=None), THREATS["Linf"], eps, STEPS, measure)
    apgd(stage, start, "error" if how == "error" else "ce", first_step)
    for n in range(len(PLANS)):
        expected = published(start[n], clean[n], eps[n].item(), values[:, n].tolist(), gradients[:, n], first_step)
        assert_same([points[n] for points in path], expected, atol=1e-12)


def test_the_plans_halve_at_different_checkpoints():
    """The comparison above would show nothing if every plan led to the same steps."""
    generator = torch.Generator().manual_seed(4)
    line = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    gradients = torch.randn(STEPS, 1, 1, 1, generator=generator, dtype=torch.float64)
    scripts = [script(plan, generator) for plan in PLANS.values()]
    paths = [torch.stack(published(line, line, 0.1, values, gradients, 2.0)).flatten() for values in scripts]
    for n, one in enumerate(paths):
        assert all((one - other).abs().max() > 1e-3 for other in paths[:n])


def test_of_equal_scores_the_latest_points_are_kept():
    first, second, third = (torch.full((2, 3, 1, 1), value) for value in (0.1, 0.2, 0.3))
    best = BestIterate(first, torch.tensor([0.5, 0.5]))
    assert best.update(second, torch.tensor([0.5, 0.4])).tolist() == [True, False]
    assert best.update(third, torch.tensor([0.4, 0.5])).tolist() == [False, True]
    assert torch.equal(best.points, torch.stack([second[0], third[1]])) and best.score.tolist() == [0.5, 0.5]
