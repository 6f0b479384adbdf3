"""A stand-in for CUDA graphs on a CPU: passes in memory of their own that are run anew at every replay."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segrobust.models.captured import CudaCapture, NotReplayed, Passes

EAGER_MS, REPLAYED_MS = 10.0, 2.0


class StandIn(CudaCapture):
    """Like a graph it reads and writes the same memory in every replay, and the weights from where they lie.

    told: what happened, in order: "captured", "forward", "backward", "released".
    fails: raised by captures.
    wrong: added to replayed logits.
    times: of an eager pass and of a replayed one, in ms.
    needs, told_needs: bytes that are measured call by call, and those that captures were told.
    """

    told: ClassVar[list[str]] = []
    fails: ClassVar[BaseException | None] = None
    wrong: ClassVar[float] = 0.0
    times: ClassVar[tuple[float, float]] = (EAGER_MS, REPLAYED_MS)
    needs: ClassVar[list[int]] = []
    told_needs: ClassVar[list[int]] = []

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @staticmethod
    def serves(images: Tensor) -> bool:
        return True

    @staticmethod
    def give_memory_back() -> None:
        pass

    def aside(self) -> Any:
        return nullcontext()

    def without_waiting(self) -> Any:
        return nullcontext()

    def milliseconds(self, call: Callable[[], Any]) -> float:
        before = len(self.told)
        call()
        return self.times["forward" in self.told[before:]]

    def random_state(self) -> bytes:
        return b""

    def needed(self) -> int:
        return self.needs.pop(0) if self.needs else 0

    def passes(self, model: nn.Module, points: Tensor, needed: int = 0) -> Passes:
        self.told_needs.append(needed)
        if self.fails is not None:
            raise self.fails
        points, told, wrong = points.detach().clone(), self.told, self.wrong
        running: dict[str, Tensor] = {}

        def forward() -> None:
            told.append("forward")
            running["points"] = points.clone().requires_grad_()
            with torch.enable_grad():
                running["logits"] = model(running["points"])
            logits.copy_(running["logits"].detach() + wrong)

        def backward() -> None:
            told.append("backward")
            (found,) = torch.autograd.grad(running.pop("logits"), running["points"], ascent)
            gradient.copy_(found)

        told.append("captured")
        logits = torch.full_like(model(points), float("nan"))
        ascent, gradient = torch.full_like(logits, float("nan")), torch.full_like(points, float("nan"))
        return Passes(points, logits, ascent, gradient, forward, backward, lambda: told.append("released"))


def stand_in(**changes: Any) -> type[StandIn]:
    """One of its own for a test, which tells what happened in ``told``."""
    return type("StandIn", (StandIn,), {"told": [], "told_needs": [], **changes})


FULL = NotReplayed("a graph leaves 10 MiB of memory, 20 are needed")
