"""What the benchmarks reach into the package for is there, and costs what they count."""

from __future__ import annotations

import torch

from benchmarks.attack_step import PROXIMAL_STEPS, proximal_step
from segrobust.attacks.gradient import Engine
from segrobust.attacks.segmentation import Goal
from tests.attacks.toys import SmallNet, batch


def test_a_benchmarked_iteration_of_alma_prox_is_one_forward_and_one_backward():
    net = SmallNet().eval()
    images, labels = batch(net, count=2)
    engine = Engine(net, Goal(labels.masked_fill(labels == 255, 0), labels != 255))
    iterations = proximal_step(engine, images)
    for done in (1, 2):
        iterations()
        assert torch.equal(engine.forwards, torch.full((2,), done * PROXIMAL_STEPS))
        assert torch.equal(engine.backwards, engine.forwards)
