"""What is left of a run, and what it will cost: told from a few passes of each study on a real batch of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from accelerate import PartialState

from segrobust.datasets.source import evenly_spaced
from segrobust.runs.batch_size import clear_memory_errors
from segrobust.runs.executor import Executor
from segrobust.runs.memory import check_memory
from segrobust.runs.progress import ImageProgress
from segrobust.runs.trial import Timed, timed
from segrobust.studies.base import Study
from segrobust.studies.bench import Bench, Group
from segrobust.studies.clean import Clean
from segrobust.studies.rows import rows_of

LOOKED_AT = 32  # images at most, for their mean size


@dataclass(frozen=True)
class Part:
    """One line of an estimate.

    name: of the study, or what else is done. images: that it is still done on. passes: forwards and backwards of single
    images, at most. seconds: on one process. peak_bytes: of a process, None where not known. batches: numbers of the
    batches, which processes share; none: every process does all of it, or only the main one.
    """

    name: str
    images: int
    passes: int
    seconds: float
    peak_bytes: int | None = None
    batches: tuple[int, ...] = ()


class Estimate:
    """The parts of what an executor has still to do."""

    def __init__(self, executor: Executor) -> None:
        self.executor, self.bench = executor, executor.bench
        self.missing: dict[Study, list[int]] = {}
        for study, batch in executor.missing():
            self.missing.setdefault(study, []).append(batch)
        self._seen: dict[str, Timed] = {}

    def parts(self) -> list[Part]:
        """Per study what must be fitted before, and its rows."""
        parts, show = [], PartialState().is_main_process
        with ImageProgress(len(self.missing), show, unit="studies") as progress:
            progress.begin("dry run", len(self.missing))
            for study in self.missing:
                progress.running(f"dry run, {study.title}")
                parts += [*self._fit(study), self._rows(study)]
                progress.advance(1, 1)
        return parts

    def passes_of(self, study: Study) -> int:
        """Of one image, those of every draw of a randomised model and those that are reported included."""
        reported = len(study.conditions)
        return reported + (study.passes - reported) * self.bench.eot

    def alone(self, study: Study) -> float:
        """Seconds of a pass of a study on one image in a batch of its own."""
        image = self._group.ids[0]
        group = self.bench.group([image], [self.bench.source[image]])
        seen = self._timed(study, group)
        if not seen.passes:  # it asks the model nothing but what is reported
            return self._share * self._reported.seconds / len(self._group.ids)
        return self._share * seen.seconds / seen.passes

    @cached_property
    def _group(self) -> Group:
        """The images of one size of the first batch that has something missing, those with the most pixels."""
        first = min((min(batches) for batches in self.missing.values()), default=0)
        batch = self.executor.batches()[first]
        groups = self.bench.groups({i: self.bench.source[i] for i in batch})
        return max(groups, key=lambda group: group.labels.numel())

    @cached_property
    def _share(self) -> float:
        """Pixels of a mean image of the run as a part of those of an image of the group."""
        source = self.bench.source
        pixels = [source[i].label.numel() for i in evenly_spaced(len(source), LOOKED_AT)]
        return sum(pixels) / len(pixels) / self._group.labels[0].numel()

    @cached_property
    def _reported(self) -> Timed:
        """The rows of the group under one condition."""
        made = next(Clean().perturbed(self.bench, self._group))
        return timed(self.bench, lambda bench: list(rows_of(bench, self._group, made)))

    def _rows(self, study: Study) -> Part:
        batches = self.missing[study]
        images = sum(len(self.executor.batches()[n]) for n in batches)
        reported, spent = len(study.conditions), self.passes_of(study) - len(study.conditions)
        count, seconds, peak = len(self._group.ids), reported * self._reported.seconds, self._reported.peak_bytes
        if not study.fit_passes:  # or it is fitted first, and then applied at once
            seen = self._first_of_its_name(study)
            seconds += seen.seconds_for(spent * count)
            peak = max((one for one in (peak, seen.peak_bytes) if one is not None), default=None)
        seconds *= self._share * images / count
        return Part(study.title, images, self.passes_of(study) * images, seconds, peak, tuple(batches))

    def _fit(self, study: Study) -> list[Part]:
        if not study.fit_passes:
            began = time.perf_counter()
            study.fit(self.bench)  # before it is asked for images; how long that takes nobody knows beforehand
            own = type(study).fit is not Study.fit
            return [Part(f"fit of {study.title}", 0, 0, time.perf_counter() - began)] if own else []
        passes, seen = study.fit_passes * self.bench.eot, timed(self.bench, study.fit)
        return [Part(f"fit of {study.title}", 0, passes, seen.seconds_for(passes), seen.peak_bytes)]

    def _first_of_its_name(self, study: Study) -> Timed:
        """A study on the group; one of each name is timed, radii and severities take the same."""
        name = study.conditions[0].name
        if name not in self._seen:
            self._seen[name] = self._timed(study, self._group)
        return self._seen[name]

    def _timed(self, study: Study, group: Group) -> Timed:
        check_memory(self.bench, study, group)

        def work(bench: Bench) -> None:
            for _ in study.perturbed(bench, group):
                pass

        with clear_memory_errors(self.executor.batch_size):
            return timed(self.bench, work)


def seconds_on(parts: Sequence[Part], processes: int) -> float:
    """Of the process that has the most to do, where processes take every so manieth batch."""
    ranks = range(processes)
    shared = [part for part in parts if part.batches]
    per_batch = {id(part): part.seconds / len(part.batches) for part in shared}
    longest = max(
        sum(per_batch[id(part)] * sum(n % processes == rank for n in part.batches) for part in shared) for rank in ranks
    )
    return longest + sum(part.seconds for part in parts if not part.batches)
