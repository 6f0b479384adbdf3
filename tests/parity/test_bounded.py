"""PGD, SegPGD, CosPGD, APGD and its radius reduction, iterate by iterate, against slow float64 references."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from segrobust.attacks import build_attack
from segrobust.attacks.gradient import Measurement
from segrobust.attacks.optimise import Stage, apgd
from tests.parity import reference_bounded as reference
from tests.parity.problem import FixedNet, record, scene, singles

EPS = 0.06


def run(monkeypatch, spec, steps, **fields):
    """What the attack returns, the points that the network saw, ``[steps, N, 3, H, W]``, and the step sizes."""
    sizes, moves = [], Stage.move

    def move(stage, points, gradient, size):
        sizes.append(size.clone())
        return moves(stage, points, gradient, size)

    monkeypatch.setattr(Stage, "move", move)
    network = FixedNet()
    images, labels = scene(network)
    attack = build_attack(spec, eps=EPS, steps=steps, **fields)
    result, seen = record(attack, network, images, labels, seeds=[3, 4])
    return network, images, labels, result, torch.stack(seen), torch.stack(sizes)


def agree(found, n, seen, sizes, result):
    assert len(found.points) == len(seen) and len(found.sizes) == len(sizes)
    torch.testing.assert_close(torch.cat(found.points), seen[:, n], rtol=0, atol=2e-6)
    torch.testing.assert_close(torch.tensor(found.sizes), sizes[:, n], rtol=1e-5, atol=0)
    torch.testing.assert_close(found.kept.float(), result.images[n : n + 1], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["SegPGD", "CosPGD"])
def test_published_pgd(monkeypatch, name):
    network, images, labels, result, seen, sizes = run(monkeypatch, f"{name}:published", 20)
    assert build_attack(f"{name}:published").steps == 100
    for n, (clean, label, valid) in enumerate(singles(images, labels)):
        start = seen[0, n : n + 1]
        assert 0.9 * EPS < (start - clean).abs().max() <= EPS
        loss = reference.LOSSES[name]
        agree(reference.pgd(network, clean, label, valid, start, EPS, 0.01, 20, loss), n, seen, sizes, result)


def test_plain_pgd_as_published_keeps_its_best_iterate(monkeypatch):
    network, images, labels, result, seen, sizes = run(monkeypatch, "CEPGD:published", 10)
    for n, (clean, label, valid) in enumerate(singles(images, labels)):
        start, loss = seen[0, n : n + 1], reference.cross_entropy
        found = reference.pgd(network, clean, label, valid, start, EPS, EPS / 4, 10, loss)
        found.kept = found.points[max(range(11), key=lambda step: (found.errors[step], step))]
        agree(found, n, seen, sizes, result)


@pytest.mark.parametrize("steps", [7, 40])
@pytest.mark.parametrize("name", ["CEPGD", "SegPGD", "CosPGD", "MaskedPGD"])
def test_apgd_halves_where_autoattack_does(monkeypatch, name, steps):
    fields = {"radius_reduction": False}
    network, images, labels, result, seen, sizes = run(monkeypatch, name, steps, **fields)
    for n, (clean, label, valid) in enumerate(singles(images, labels)):
        start, loss = seen[0, n : n + 1], reference.LOSSES[name]
        agree(reference.apgd(network, clean, label, valid, start, EPS, steps, loss), n, seen, sizes, result)


@pytest.mark.parametrize("halves_first", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 13, 40, 90])
def test_step_sizes_on_any_course_of_the_loss(steps, halves_first):
    """Losses that are made up: what the look backs count, and when, is all that matters."""
    generator = torch.Generator().manual_seed(0)
    count = 300
    drift = torch.linspace(-0.3, 1.0, count)
    losses = 50 + (torch.randn(steps + 1, count, generator=generator) + drift).cumsum(0)
    sizes = []

    def measured(step):
        nothing = torch.zeros(count)
        return Measurement(losses[step], nothing, torch.zeros(count, 3, 1, 1), nothing)

    engine = SimpleNamespace(goal=SimpleNamespace(targeted=False), measure=lambda points: measured(steps))
    stage = SimpleNamespace(
        problem=SimpleNamespace(engine=engine, class_weights=None),
        steps=steps,
        within=False,
        measures_last=True,
        eps=torch.full((count,), 0.5),
        gradient=lambda points, step: measured(step),
        project=lambda points: points,
        move=lambda points, gradient, size: sizes.append(size) or points,
    )
    apgd(stage, torch.zeros(count, 3, 1, 1), "ce", halves_first=halves_first)
    for n in range(count):
        course, size, expected = losses[:, n].tolist(), 1.0, []
        control = reference.LookBacks(steps, course[0], halves_first)
        for i in range(steps):
            expected.append(size)
            size /= 2 if control.halve(i, course[i + 1], max(course[: i + 2])) else 1
        assert [one[n].item() for one in sizes] == expected
    assert steps < 40 or len({one[n].item() for one in sizes for n in range(count)}) > 4


@pytest.mark.parametrize("name", ["MaskedPGD", "TsallisPGD"])
def test_radius_reduction_as_published(monkeypatch, name):
    steps = 60
    network, images, labels, result, seen, sizes = run(monkeypatch, f"{name}:published", steps)
    own = {"handover": "ce", "halves_first": False} if name == "TsallisPGD" else {}
    for n, (clean, label, valid) in enumerate(singles(images, labels)):
        start = seen[0, n : n + 1]
        assert 1.8 * EPS < (start - clean).abs().max() <= 2 * EPS
        loss = reference.LOSSES[name]
        found = reference.with_radius_reduction(network, clean, label, valid, start, EPS, steps, loss, **own)
        agree(found, n, seen, sizes, result)
    assert build_attack(f"{name}:published").steps == 300


def test_the_code_of_tsallis_pgd_never_halves_at_the_first_look_back(monkeypatch):
    _, _, _, _, _, never = run(monkeypatch, "TsallisPGD", 40, radius_reduction=False, halves_first=False)
    _, _, _, _, _, may = run(monkeypatch, "TsallisPGD", 40, radius_reduction=False)
    first = int(0.22 * 40)
    assert (never[: first + 1] == 2 * torch.tensor(EPS)).all() and (may[first] < never[first]).any()


def test_published_radii():
    for name in ("CEPGD", "SegPGD", "CosPGD"):
        assert build_attack(f"{name}:published").eps == pytest.approx(8 / 255)
        assert build_attack(name).eps == pytest.approx(4 / 255)
