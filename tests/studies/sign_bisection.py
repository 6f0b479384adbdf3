"""A small minimum-norm attack: along the sign of one cross-entropy gradient, bisected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from segrobust.attacks.minimum_norm import MinNormAttack
from segrobust.attacks.registry import ATTACKS
from segrobust.attacks.weights import ce
from segrobust.core.threats import per_image


@dataclass(frozen=True, kw_only=True)
class SignBisection(MinNormAttack):
    """``steps`` halvings of the interval from 0 to 1/4, after one look at every budget."""

    steps: int = 8
    apsr: float = 0.6
    can_target: ClassVar[bool] = True

    def search_passes(self) -> tuple[int, int]:
        return 2 + self.steps, 1

    def search(self, problem, closest) -> None:
        engine, clean = problem.engine, problem.clean
        closest.update(clean, engine.measure(clean).reached)
        gradient = engine.gradient(clean, ce, 0.0).gradient
        for eps in problem.budgets:
            points = (clean + eps * gradient.sign()).clamp(0, 1)
            closest.update(points, engine.measure(points).reached)
        low, high = torch.zeros(len(clean)), torch.full((len(clean),), 0.25)
        for step in range(self.steps + 1):
            size = (low + high) / 2 if step else high
            points = (clean + per_image(size) * gradient.sign()).clamp(0, 1)
            succeeds = closest.update(points, engine.measure(points).reached)
            high, low = torch.where(succeeds, size, high), torch.where(succeeds, low, size)


def register(monkeypatch: pytest.MonkeyPatch, cls: type = SignBisection) -> None:
    monkeypatch.setitem(ATTACKS, cls.__name__, cls)
