"""FMN, DDN, DAG, the bisections and ASMA as published, iterate by iterate, against slow float64 references."""

from __future__ import annotations

import math

import pytest
import torch

from segrobust.attacks import build_attack
from tests.parity import reference_min_norm as reference
from tests.parity.problem import CLASSES, FixedNet, record, scene, singles

APSR = 0.9


def goal_of(labels, targeted):
    """What an attack is called with: targets beside the labels, or nothing."""
    return {"targets": ((labels + 1) % CLASSES).where(labels != 255, labels)} if targeted else {}


def compare(spec, call, targeted=False, atol=1e-5, **fields):
    """Ours and the reference's points, step by step, and what each returns; the reference's runs.

    call: from network, image, labels (or targets), valid pixels to a run and its best.
    """
    network = FixedNet()
    images, labels = scene(network)
    goal = goal_of(labels, targeted)
    attack = build_attack(spec, targeted=targeted, **{"apsr": APSR, **fields})
    wanted = goal.get("targets", labels)
    runs, alone = [], []
    for n, (clean, label, valid) in enumerate(singles(images, wanted)):
        run, best = call(network, clean, label, valid)
        part = slice(n, n + 1)
        result, seen = record(attack, network, images[part], labels[part], **{k: v[part] for k, v in goal.items()})
        points = torch.cat(run.points)
        assert len(seen) >= len(points)
        torch.testing.assert_close(torch.cat(seen[: len(points)]), points, rtol=0, atol=atol)
        runs.append((run, best, result, seen))
        alone.append(result.images)
    together = attack(network, images, labels, **goal)
    torch.testing.assert_close(together.images, torch.cat(alone), rtol=0, atol=atol)
    return runs


def returns_the_best(run, best, result, seen, measured=2):
    """But for the points after the last step, which are measured too here: where they are better they count."""
    assert len(seen) == len(run.points) + 1 + measured  # it, and twice what is returned: as it is and as an 8-bit file
    last = seen[len(run.points)]
    if not torch.equal(result.images.double(), last):
        torch.testing.assert_close(result.images.double(), best.points, rtol=0, atol=5e-5)
        assert bool(result.found) == best.found
    else:
        assert result.pixel_error >= best.share - 1e-6


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("first_step", "steps"), [(10.0, 15), (0.6, 40)])  # rounding grows with the step
def test_fmn(first_step, steps, targeted):
    required = 0.3 if targeted else 0.8
    call = lambda *problem: reference.fmn_linf(*problem, steps, required, first_step, targeted=targeted)  # noqa: E731
    fields = {"apsr": required, "steps": steps, "step_size": first_step}
    for run, best, result, seen in compare("FMN:published", call, targeted, atol=3e-5, **fields):
        returns_the_best(run, best, result, seen)
        assert best.found and 0 < sum(share >= required for share in run.shares) < steps - 3  # it goes both ways
    published = build_attack("FMN:published")
    assert (published.steps, published.step_size, published.norm) == (500, 10.0, "Linf")


@pytest.mark.parametrize("targeted", [False, True])
def test_ddn_with_its_256_levels(targeted):
    call = lambda *problem: reference.ddn(*problem, 40, 0.6, targeted=targeted)  # noqa: E731
    for run, best, result, seen in compare("DDN:published", call, targeted, apsr=0.6, steps=40):
        returns_the_best(run, best, result, seen)
        assert best.found and 0 < sum(share >= 0.6 for share in run.shares) < 35
        levels = torch.cat(seen[1:-2]) * 255
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert build_attack("DDN:published").steps == 500 and build_attack("DDN").levels is None


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("norm", "order", "gamma"), [("Linf", math.inf, 0.01), ("L2", 2, 0.15)])
def test_dag_whose_change_may_leave_the_box(norm, order, gamma, targeted):
    call = lambda *problem: reference.dag(*problem, 40, APSR, gamma, order, targeted)  # noqa: E731
    for run, best, result, _ in compare("DAG:published", call, targeted, norm=norm, gamma=gamma, steps=40):
        assert len(run.shares) > 5 and (run.points[-1] == 0).any()
        if best.found:
            torch.testing.assert_close(result.images.double(), best.points, rtol=0, atol=2e-6)
            assert int(result.backwards) == len(run.shares)
        else:
            assert not result.found or result.pixel_error >= APSR
    published = build_attack("DAG:published")
    assert (published.steps, published.gamma) == (500, 0.001)


@pytest.mark.parametrize(
    ("name", "steps", "relative_step", "momentum"),
    [("PGDBisection", 40, 0.1 / 3, 0.0), ("MIFGSMBisection", 20, 1 / 20, 1.0)],
)
@pytest.mark.parametrize("targeted", [False, True])
def test_bisections(name, steps, relative_step, momentum, targeted):
    def call(*problem):
        return reference.bisection(*problem, share, 13, steps, relative_step, momentum, targeted)

    share = 0.2 if targeted else 0.5
    for run, best, result, seen in compare(f"{name}:published", call, targeted, apsr=share):
        assert len(run.points) == 13 * steps and len(seen) == 13 * steps + 2
        assert best.found and 0.01 < best.norm < 0.5
        torch.testing.assert_close(result.images.double(), best.points, rtol=0, atol=2e-6)
        assert result.distance.item() == pytest.approx(best.norm, abs=2e-6)


def test_asma():
    call = lambda *problem: reference.asma(*problem, 30, APSR, 1e-3, 1e-2)  # noqa: E731
    fields = {"steps": 30, "step_size": 1e-3, "iou_step": 1e-2}
    for run, best, result, seen in compare("ASMA:published", call, True, **fields):
        returns_the_best(run, best, result, seen)
        assert run.radii[0] == 1e-3 < run.radii[15] < run.radii[-1] and run.norms[-1] > 0.1
    published = build_attack("ASMA:published")
    assert (published.step_size, published.iou_step, published.first_change, published.steps) == (1e-7, 1e-6, None, 500)
