"""A run's work on one process: which batches are its own, and the rows that studies make of each."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from segrobust.core.errors import UserError
from segrobust.core.files import clear_io_errors, replace_file
from segrobust.core.rows import CLEAN, Condition, Row
from segrobust.models.failures import out_of_memory
from segrobust.runs.batch_size import clear_memory_errors
from segrobust.runs.folder import RunFolder
from segrobust.runs.memory import check_memory
from segrobust.runs.progress import ImageProgress
from segrobust.studies.base import Perturbed, Study
from segrobust.studies.bench import Bench, Group
from segrobust.studies.rows import rows_of

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Executor:
    """Studies on a bench, batch by batch, into a run folder.

    Batch i holds the same images whatever the number of processes, and processes take whole batches.
    """

    bench: Bench
    studies: Sequence[Study]
    folder: RunFolder
    batch_size: int
    save_adversarial: bool = False
    _fitted: set[tuple] = field(default_factory=set, init=False, repr=False)

    def batches(self) -> list[range]:
        return self.folder.images().batches(self.batch_size)

    def run(self, rank: int = 0, world: int = 1, stopped: Callable[[], bool] = lambda: False) -> None:
        """Compute the missing rows of batches rank, rank + world, ..., or those until it is ``stopped``."""
        batches, missing = self.batches(), self.missing()
        for study in dict.fromkeys(study for study, _ in missing):
            study.fit(self.bench)
        own = range(rank, len(batches), world)
        todo = [(study, batches[n]) for study, n in missing if n in own]
        images = sum(len(batches[n]) for n in own)
        work = sum(study.passes * len(batch) for study, batch in todo)
        with self.folder.writer(rank) as writer, ImageProgress(work, rank == 0) as progress:
            for study in dict.fromkeys(study for study, _ in todo):
                left = [batch for one, batch in todo if one == study]
                name = f"{study.title} ({self.studies.index(study) + 1} of {len(self.studies)})"
                progress.begin(name, images, images - sum(map(len, left)))
                for batch in left:
                    if stopped():
                        return
                    rows, seconds, peak_bytes = self._measured(study, batch)
                    writer.append(rows, [seconds / len(batch)] * len(rows), peak_bytes)
                    progress.advance(len(batch), study.passes * len(batch))

    def missing(self) -> list[tuple[Study, int]]:
        """The studies with the numbers of the batches that they are to be made on still."""
        done = {row.key for row in self.folder.rows()}
        batches = [*enumerate(self.batches())]
        return [(study, n) for study in self.studies for n, batch in batches if self._lacks(study, batch, done)]

    def _lacks(self, study: Study, batch: range, done: set[tuple[str, int]]) -> bool:
        """Whether a row of the batch is missing or, where they are kept, an image."""
        keys = {(condition.id, image) for condition in study.conditions for image in batch}
        files = [self.image_file(one, i) for one in study.conditions for i in batch if self._is_saved(one)]
        return not keys <= done or not all(file.is_file() for file in files)

    def _measured(self, study: Study, batch: range) -> tuple[list[Row], float, int | None]:
        """The rows, the seconds they took, and the most memory of torch's tensors and graphs on the GPU, the model's
        included; None on a CPU, whose peak is the whole process's, which later attacks cannot get below."""
        began, device, peak = time.perf_counter(), self.bench.device, None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with clear_memory_errors(self.batch_size):
            rows = self._rows_in_memory(study, batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            peak = torch.cuda.max_memory_allocated(device) + self.bench.held_by_graphs
        return rows, time.perf_counter() - began, peak

    def _rows_in_memory(self, study: Study, batch: range) -> list[Row]:
        """Rows of one batch; where memory is full and CUDA graphs are in it, once more without these."""
        try:
            return self.rows(study, batch)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or not self.bench.give_graphs_up():
                raise
        # only here, where no error holds its frames' tensors any more
        _LOG.info("memory is full: from now on attacks do without CUDA graphs")
        return self.rows(study, batch)

    def rows(self, study: Study, batch: range) -> list[Row]:
        """Rows of one batch; images of different sizes go in groups of equal size."""
        rows: list[Row] = []
        for group in self.bench.groups({i: self.bench.source[i] for i in batch}):
            fitting = study.title, len(group.ids), group.labels.shape[1:]
            if fitting not in self._fitted:  # memory that was given back may stay with this process
                check_memory(self.bench, study, group)
                self._fitted.add(fitting)
            shown = []
            for made in study.perturbed(self.bench, group):
                shown.append(made.condition)
                if len(made.extra) != len(group.ids):
                    raise UserError(f"{study.title}: expected {len(group.ids)} of extra, got {len(made.extra)}")
                rows += rows_of(self.bench, group, made)
                if self._is_saved(made.condition):
                    self._save(group, made)
            if tuple(shown) != tuple(study.conditions):
                raise UserError(f"{study.title}: its images are not those of its conditions, one after the other")
        return sorted(rows, key=lambda row: row.order)

    def _is_saved(self, condition: Condition) -> bool:
        return self.save_adversarial and condition.study != CLEAN and not condition.candidate

    def _save(self, group: Group, made: Perturbed) -> None:
        for image, pixels in zip(group.ids, made.images, strict=True):
            file = self.image_file(made.condition, image)
            with clear_io_errors(f"create {file.parent}", "choose a --work-dir that can be written"):
                file.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            np.save(buffer, pixels.cpu().numpy())
            replace_file(file, buffer.getvalue())

    def image_file(self, condition: Condition, image: int) -> Path:
        return self.folder.path / "adversarial" / condition.folder / f"{image:06d}.npy"
