"""A few passes of a study on a real batch, timed: what all of them will take is told from these."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segrobust.models.segmenter import Segmenter
from segrobust.runs.memory import peak_bytes, reset_peak
from segrobust.studies.bench import Bench

WARM, WARM_ON_GPU = 1, 6  # calls of the model that are not timed: a GPU captures its graph after three
CALLS = 8  # that are timed, at most
ENOUGH = 3.0  # seconds of them


@dataclass(frozen=True)
class Timed:
    """What was seen of one computation.

    passes: forwards and backwards of images, one by one, in ``seconds``.
    before: seconds until the first of them.
    whole: it came to its end, and took ``seconds``.
    peak_bytes: most memory meanwhile: of torch's tensors on a GPU, of the process on a CPU; None where not known.
    """

    passes: int
    seconds: float
    before: float = 0.0
    whole: bool = False
    peak_bytes: int | None = None

    def seconds_for(self, passes: int) -> float:
        """All of a computation with so many passes of images."""
        return self.seconds if self.whole else self.before + passes * self.seconds / self.passes


class _Enough(Exception):
    pass


class _Clock:
    """Times of the calls of a model, and the passes of images before each."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._warm = device, WARM_ON_GPU if device.type == "cuda" else WARM
        self.passes, self.marks = 0, []
        self.began = self.now()

    def now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def call(self) -> None:
        """A call of the model begins; raises where enough is known."""
        self.marks.append((self.now(), self.passes))
        timed = len(self.marks) - 1 - self._warm
        if timed == CALLS or (timed > 0 and self.marks[-1][0] - self.marks[self._warm][0] > ENOUGH):
            raise _Enough

    def seen(self, peak: int | None) -> Timed:
        (first, _), (start, before), (end, after) = self.marks[0], self.marks[self._warm], self.marks[-1]
        return Timed(after - before, end - start, first - self.began, peak_bytes=peak)


class _Counted(nn.Module):
    """A model whose passes a clock counts; ``draws`` of each in one call."""

    def __init__(self, model: nn.Module, clock: _Clock, draws: int) -> None:
        super().__init__()
        self.model, self._clock, self._draws = model, clock, draws

    def forward(self, images: Tensor) -> Tensor:
        self._clock.call()
        logits = self.model(images)
        count = len(images) * self._draws

        def add(*_: object) -> None:
            self._clock.passes += count

        add()
        if isinstance(logits, Tensor) and logits.requires_grad:
            logits.register_hook(add)
        return logits


@dataclass
class _TrialBench(Bench):
    """A bench on which a clock sees what attacks ask the model."""

    clock: _Clock | None = None

    def attacked(self, seeds: Sequence[int], surrogate: Segmenter | None = None) -> nn.Module:
        return _Counted(super().attacked(seeds, surrogate), self.clock, self.eot)


def timed(bench: Bench, work: Callable[[Bench], object]) -> Timed:
    """The beginning of ``work`` on a bench, or all of it where it is short; then the second of two times."""
    seen = _timed_once(bench, work)
    return _timed_once(bench, work) if seen.whole and seen.seconds < ENOUGH else seen


def _timed_once(bench: Bench, work: Callable[[Bench], object]) -> Timed:
    reset_peak(bench.device)
    clock = _Clock(bench.device)
    given = {one.name: getattr(bench, one.name) for one in dataclasses.fields(bench) if one.init}
    trial = _TrialBench(**{**given, "clock": clock})
    trial._replayed = bench._replayed  # graphs of this run
    with contextlib.suppress(_Enough):
        work(trial)
        seconds = clock.now() - clock.began
        return Timed(clock.passes, seconds, whole=True, peak_bytes=peak_bytes(bench.device))
    return clock.seen(peak_bytes(bench.device))
