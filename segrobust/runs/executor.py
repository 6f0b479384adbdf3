"""A run's work on one process: which batches are its own, and what an attack makes of each."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segrobust.core.files import clear_io_errors, replace_file
from segrobust.core.groups import of_equal_size
from segrobust.core.rows import Row, row_key
from segrobust.core.seeds import image_seeds
from segrobust.datasets.source import Sample, Source
from segrobust.datasets.survey import INPUT, ORIGINAL
from segrobust.datasets.targets import Target
from segrobust.models.expectation import Expectation, drawing
from segrobust.models.segmenter import frozen_eval
from segrobust.runs.batch_size import clear_memory_errors
from segrobust.runs.cost import measured
from segrobust.runs.folder import RunFolder
from segrobust.runs.precision import AMP
from segrobust.runs.progress import ImageProgress
from segrobust.studies.jobs import Job
from segrobust.studies.outcomes import Group, Outcome, clean_outcome, outcomes_of, rows_of


class Evaluation:
    """One run: model, images and jobs, on this process's share of the batches.

    ``model`` is what is reported, ``attacked`` what the attacks see: the same, or the surrogate of a transfer, or the
    mean of either over ``eot`` random draws.
    """

    def __init__(self, model, source: Source, jobs: Sequence[Job], folder: RunFolder, **settings: Any) -> None:
        self.model, self.source, self.jobs, self.folder = model, source, jobs, folder
        self.batch_size: int = settings["batch_size"]
        self.seed: int = settings["seed"]
        self.amp: str | bool = settings["amp"]
        self.save_adversarial: bool = settings["save_adversarial"]
        self.target: Target | None = settings.get("target")
        self.attacked = settings.get("surrogate") or model
        self.eot: int = settings.get("eot", 1)
        self.metric_size: str = settings.get("metric_size", INPUT)
        self.mask: Tensor | None = settings.get("mask")
        if self.eot > 1:
            self.attacked = Expectation(self.attacked, self.eot)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def batches(self) -> list[range]:
        count = len(self.source)
        return [range(at, min(at + self.batch_size, count)) for at in range(0, count, self.batch_size)]

    def run(self, rank: int = 0, world: int = 1, stopped: Callable[[], bool] = lambda: False) -> None:
        """Compute the missing rows of batches rank, rank + world, ..., or those until it is ``stopped``."""
        own = self.batches()[rank::world]
        done = {row_key(row) for row in self.folder.rows()}
        pairs = [(job, batch) for job in self.jobs for batch in own]
        todo = [(job, batch) for job, batch in pairs if not all(self._is_done(job, i, done) for i in batch)]
        total = sum(len(batch) for _, batch in pairs)
        missing = sum(len(batch) for _, batch in todo)
        work = sum(job.passes * len(batch) for job, batch in todo)
        with self.folder.writer(rank) as writer, ImageProgress(total, total - missing, work, rank == 0) as progress:
            for job, batch in todo:
                if stopped():
                    return
                with measured(self.device) as cost, clear_memory_errors(self.batch_size):
                    rows = self.attack_batch(job, batch)
                writer.append(rows, [cost.seconds / len(batch)] * len(rows), cost.peak_bytes)
                progress.advance(len(batch), job.passes * len(batch), job.title(job.radii[0]))

    def _is_done(self, job: Job, image: int, done: set) -> bool:
        files = [self._file(job, eps, image) for eps in job.radii] if self.save_adversarial and job.attack else []
        return done.issuperset(job.keys(image)) and all(file.is_file() for file in files)

    def attack_batch(self, job: Job, batch: range) -> list[Row]:
        """Rows of one batch; images of different sizes go in groups of equal size."""
        samples = {i: self.source[i] for i in batch}
        rows: list[Row] = []
        for group in self.groups(samples):
            for outcome in self.outcomes(job, group):
                rows += rows_of(job, group, outcome, self.measured(outcome.points, group), self.source)
                if self.save_adversarial and job.attack and not outcome.candidate:
                    self._save(job, group, outcome)
        return sorted(rows, key=row_key)

    def groups(self, samples: Mapping[int, Sample]) -> list[Group]:
        """Samples by their ids, in groups of equal size (and of labels that have equal size in their files)."""
        stored = self.source.file_size if self.metric_size == ORIGINAL else lambda i: None
        sizes = {i: (tuple(sample.label.shape), stored(i)) for i, sample in samples.items()}
        return [self.group(ids, [samples[i] for i in ids]) for ids in of_equal_size(sizes)]

    def group(self, ids: Sequence[int], samples: Sequence[Sample]) -> Group:
        """Samples of one size on the model's device, with their targets if the run has any."""
        images = torch.stack([sample.image for sample in samples]).to(self.device)
        labels = torch.stack([sample.label for sample in samples]).to(self.device)
        targets = self.target and self.target(samples, lambda: self.logits(images, ids)).to(self.device)
        originals = None
        if self.metric_size == ORIGINAL:
            originals = torch.stack([self.source.original_label(i) for i in ids]).to(self.device)
        return Group(ids, samples, images, labels, targets, originals)

    def outcomes(self, job: Job, group: Group) -> list[Outcome]:
        """What the job makes of the group, at each of its radii."""
        if job.attack is None:
            return [clean_outcome(group)]
        seeds = image_seeds(self.seed, group.ids)
        if self.eot > 1:
            self.attacked.begin(seeds[0])
        mixed = torch.autocast(self.device.type, AMP.get(self.amp), enabled=bool(self.amp))
        with drawing(tuple(seeds), self.device), mixed:
            result = job.attack(
                self.attacked,
                group.images,
                group.labels,
                ignore_index=self.source.ignore_index,
                targets=group.targets,
                seeds=seeds,
                budgets=job.budgets,
                mask=self.mask,
            )
        return outcomes_of(job, result)

    @torch.no_grad()
    def logits(self, images: Tensor, ids: Sequence[int] = ()) -> Tensor:
        """Logits ``[N, K, H, W]`` in float32 of one forward on float32 images, without mixed precision.

        Inside, a network works in the precision of its weights. A randomised model makes one known draw for these ids.

        Every batch has a draw of its own, or a run would measure a single one of a defence that draws per forward.
        """
        with frozen_eval(self.model), drawing((self.seed, *ids), self.device):
            return self.model(images.float())

    def predict(self, images: Tensor, ids: Sequence[int] = ()) -> Tensor:
        """Class ids ``[N, H, W]``, the largest of ``logits``."""
        return self.logits(images, ids).argmax(1)

    def measured(self, images: Tensor, group: Group) -> Tensor:
        """The same at the size of the metric: what is reported. Like mmseg, logits are resized before the argmax."""
        logits = self.logits(images, group.ids)
        if group.originals is None:
            return logits.argmax(1)
        size, corners = group.originals.shape[1:], self.model.align_corners
        resized = (F.interpolate(one[None], size, mode="bilinear", align_corners=corners) for one in logits)
        return torch.cat([one.argmax(1) for one in resized])  # one at a time: they may be large

    def _save(self, job: Job, group: Group, outcome: Outcome) -> None:
        for image, point in zip(group.ids, outcome.points, strict=True):
            file = self._file(job, outcome.eps, image)
            with clear_io_errors(f"create {file.parent}", "choose a --work-dir that can be written"):
                file.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            np.save(buffer, point.cpu().numpy())
            replace_file(file, buffer.getvalue())

    def _file(self, job: Job, eps: float | None, image: int) -> Path:
        name = job.title(eps).translate(str.maketrans("/ :", "-_-"))
        return self.folder.path / "adversarial" / name / f"{image:06d}.npy"
