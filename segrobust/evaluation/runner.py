"""Evaluation: every image under every attack at every radius, as rows in a run folder.

    summary = evaluate(model, source, ["TsallisPGD", "CosPGD"], eps=["1/255", "4/255"], work_dir="work_dirs/mine")

Batch i holds the same images whatever the number of processes, and processes take whole batches; so 1, 2 or 8
processes and a resumed run give the same rows. Start several with ``torchrun tools/evaluate.py ...``.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from segrobust.datasets.majority import colour_png, id_png
from segrobust.datasets.source import Sample, Source
from segrobust.datasets.targets import Target, build_target
from segrobust.errors import UserError
from segrobust.evaluation.batch_size import AUTO, check_batch_size, clear_memory_errors, settle_batch_size
from segrobust.evaluation.cost import measured
from segrobust.evaluation.durable import clear_io_errors, replace_file
from segrobust.evaluation.form import AMP, amp_name, faster_form
from segrobust.evaluation.identity import identity_of
from segrobust.evaluation.jobs import Job, plan_jobs
from segrobust.evaluation.outcomes import Group, Outcome, clean_outcome, outcomes_of, rows_of
from segrobust.evaluation.pictures import write_pictures
from segrobust.evaluation.progress import ImageProgress
from segrobust.evaluation.rows import Row, check_complete, row_key
from segrobust.evaluation.store import RunFolder
from segrobust.evaluation.summary import Record, summarise
from segrobust.evaluation.transfer import transferred
from segrobust.models.segmenter import Segmenter, frozen_eval
from segrobust.report import build_report


class Evaluation:
    """One run: model, images and jobs, on this process's share of the batches.

    ``model`` is what is reported, ``attacked`` what the attacks see: the same, or the surrogate of a transfer.
    """

    def __init__(self, model, source: Source, jobs: Sequence[Job], folder: RunFolder, **settings: Any) -> None:
        self.model, self.source, self.jobs, self.folder = model, source, jobs, folder
        self.batch_size: int = settings["batch_size"]
        self.seed: int = settings["seed"]
        self.amp: str | bool = settings["amp"]
        self.save_adversarial: bool = settings["save_adversarial"]
        self.target: Target | None = settings.get("target")
        self.attacked = settings.get("surrogate") or model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def batches(self) -> list[range]:
        count = len(self.source)
        return [range(at, min(at + self.batch_size, count)) for at in range(0, count, self.batch_size)]

    def run(self, rank: int = 0, world: int = 1) -> None:
        """Compute the missing rows of batches rank, rank + world, ..."""
        own = self.batches()[rank::world]
        done = {row_key(row) for row in self.folder.rows()}
        pairs = [(job, batch) for job in self.jobs for batch in own]
        todo = [(job, batch) for job, batch in pairs if not all(self._is_done(job, i, done) for i in batch)]
        total = sum(len(batch) for _, batch in pairs)
        missing = sum(len(batch) for _, batch in todo)
        work = sum(job.passes * len(batch) for job, batch in todo)
        with self.folder.writer(rank) as writer, ImageProgress(total, total - missing, work, rank == 0) as progress:
            for job, batch in todo:
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
        sizes: dict[tuple, list[int]] = {}
        for i, sample in samples.items():
            sizes.setdefault(tuple(sample.label.shape), []).append(i)
        rows: list[Row] = []
        for ids in sizes.values():
            group = self.group(ids, [samples[i] for i in ids])
            for outcome in self.outcomes(job, group):
                rows += rows_of(job, group, outcome, self.predict(outcome.points), self.source)
                if self.save_adversarial and job.attack and not outcome.candidate:
                    self._save(job, group, outcome)
        return sorted(rows, key=row_key)

    def group(self, ids: Sequence[int], samples: Sequence[Sample]) -> Group:
        """Samples of one size on the model's device, with their targets if the run has any."""
        images = torch.stack([sample.image for sample in samples]).to(self.device)
        labels = torch.stack([sample.label for sample in samples]).to(self.device)
        targets = self.target and self.target(samples, lambda: self.logits(images)).to(self.device)
        return Group(ids, samples, images, labels, targets)

    def outcomes(self, job: Job, group: Group) -> list[Outcome]:
        """What the job makes of the group, at each of its radii."""
        if job.attack is None:
            return [clean_outcome(group)]
        with torch.autocast(self.device.type, AMP.get(self.amp), enabled=bool(self.amp)):
            result = job.attack(
                self.attacked,
                group.images,
                group.labels,
                ignore_index=self.source.ignore_index,
                targets=group.targets,
                seeds=image_seeds(self.seed, group.ids),
                budgets=job.budgets,
            )
        return outcomes_of(job, result)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits ``[N, K, H, W]`` of one forward in float32."""
        with frozen_eval(self.model):
            return self.model(images.float())

    def predict(self, images: Tensor) -> Tensor:
        """Class ids ``[N, H, W]`` from one forward in float32: what is reported."""
        return self.logits(images).argmax(1)

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


def image_seeds(seed: int, ids: Sequence[int]) -> list[int]:
    """One seed per image from the run's seed and the image's place in the data set."""
    return [int(np.random.SeedSequence((seed, image)).generate_state(1)[0]) for image in ids]


def evaluate(
    model: Segmenter,
    dataset: Source,
    attacks: Sequence[Any] = ("TsallisPGD",),
    eps: Sequence[float | str] = ("4/255",),
    *,
    work_dir: str | Path,
    steps: int | None = None,
    batch_size: int | str = 4,
    seed: int = 0,
    amp: bool | str = False,
    fold_bn: bool = False,
    channels_last: bool = False,
    fresh: bool = False,
    save_adversarial: bool = False,
    attack_defaults: dict | None = None,
    target: str | Target | None = None,
    surrogate: Segmenter | None = None,
    checks: str = "quick",
    declared: Mapping[str, Any] | None = None,
    files: Mapping[str, Path] | None = None,
    identity: dict[str, Any] | None = None,
    about: dict[str, Any] | None = None,
) -> list[Record]:
    """Attack every image of ``dataset`` and leave rows, summary, pictures and report in ``work_dir``.

    Args:
        model: a Segmenter, on the device to use; under torchrun it is moved to the process's own device.
        dataset: a :class:`segrobust.datasets.source.Source`.
        attacks: names, configs or attack objects; a bounded one runs at every radius of ``eps``, a minimum-norm one
            once, keeping besides its closest images the worst ones within each radius.
        steps: overrides the attacks' own number of steps.
        batch_size: images per batch, or ``"auto"``: the most that fit into memory, found before the rows begin; it is
            part of ``run.json``, so a run that goes on keeps its size.
        amp: ``"bf16"`` (or True) or ``"fp16"`` for the attacks' gradients; what is reported is float32 all the same.
        fold_bn, channels_last: attack a faster form of the network, whose predictions on the first images are checked
            against those of the model as it is (:func:`segrobust.models.inference_form.inference_form`).
        fresh: discard what ``work_dir`` holds instead of going on with it.
        save_adversarial: keep the attacked images as ``adversarial/<attack>_<eps>/<image>.npy`` (float32, RGB, [0, 1]).
        target: what targeted attacks are to make of every pixel, such as ``"background"`` or ``"least-likely"``
            (:func:`segrobust.datasets.targets.build_target`); makes every attack targeted. ``found`` then means 99 %
            of the pixels at their target; the worst case stays that with the fewest pixels right.
        surrogate: attack this model and measure the images on ``model``; see ``transfer.py``.
        checks: whether the results can be trusted goes into ``checks.json``: ``"quick"`` (cheap, on 16 images),
            ``"full"`` (runs the strongest attack several times more, on 8 images) or ``"off"``.
        declared: the model's published clean score, such as ``{"mIoU": 49.6, "images": 233}``, for the checks.
        files: paths by the names of the fields of ``identity`` that hold their sha256, for the checks.
        identity, about: more to store in ``run.json``; a run with another identity is not continued.

    Returns:
        The records of ``summary.json``; on processes other than the main one as well.

    Raises:
        UserError: model and data set do not fit, an attack does not exist or cannot be targeted, a faster form does
            not predict the same, memory is full, or ``work_dir`` holds a run with other settings.
        ModelError, AttackContractError: the model cannot be attacked, or an attack is defective; the checks then say
            so too.
    """
    if model.num_classes != dataset.num_classes:
        raise UserError(f"the model has {model.num_classes} classes, the data set {dataset.num_classes}")
    check_batch_size(batch_size)
    from segrobust.evaluation.checks.runner import check_run, failures_checked, refuse_unfit

    refuse_unfit(checks, declared)
    if isinstance(target, str):
        target = build_target(target, dataset)
    jobs = plan_jobs(attacks, eps, steps, attack_defaults, targeted=target is not None)
    if surrogate is not None:
        jobs = transferred(jobs, surrogate, model)
    form = {"fold_bn": fold_bn, "channels_last": channels_last}
    settings = {"batch_size": batch_size, "seed": seed, "amp": amp_name(amp), "target": target, "surrogate": surrogate}
    # early processes wait for late ones, and an attack may take hours
    state = PartialState(cpu=next(model.parameters()).device.type == "cpu", timeout=timedelta(days=7))
    for one in (model, surrogate):
        if one is not None and state.num_processes > 1:
            one.to(state.device)
    folder = RunFolder(work_dir)
    attacked = faster_form(model, dataset, **form) if any(form.values()) else model
    evaluation = Evaluation(attacked, dataset, jobs, folder, **settings, save_adversarial=save_adversarial)
    if batch_size == AUTO:
        evaluation.batch_size = settings["batch_size"] = settle_batch_size(evaluation, fresh)
    if state.is_main_process:
        own = identity_of(model, dataset, jobs, settings | form)
        folder.open({**(identity or {}), **own}, fresh=fresh, about=about)
        _keep_target(folder, target, dataset)
    state.wait_for_everyone()
    check = functools.partial(check_run, evaluation, checks, declared=declared, files=files, original=model)
    with failures_checked(check, state):
        evaluation.run(state.process_index, state.num_processes)
    state.wait_for_everyone()
    if state.is_main_process:
        _finish(evaluation, check)
    state.wait_for_everyone()
    return folder.read_json("summary.json")


def _keep_target(folder: RunFolder, target: Target | None, dataset: Source) -> None:
    """Store the map that serves all images, so that the next start and a reader need not make it again."""
    if target is not None and target.map is not None:
        replace_file(folder.path / "target.png", id_png(target.map))
        colours = colour_png(target.map, dataset.palette, dataset.ignore_index)
        replace_file(folder.path / "target-colours.png", colours)


def _finish(evaluation: Evaluation, check: Callable[..., None] | None = None) -> None:
    """Summary, checks, pictures and report from complete rows."""
    folder = evaluation.folder
    rows = folder.rows()
    images = range(len(evaluation.source))
    check_complete(rows, (key for job in evaluation.jobs for i in images for key in job.keys(i)), folder.path)
    controls = {job.label for job in evaluation.jobs if job.attack and job.attack.control}
    summary = summarise(rows, evaluation.source.num_classes, folder.timings(), controls=controls)
    folder.write_json("summary.json", summary)
    if check:
        check(summary)
    write_pictures(evaluation, summary, rows)
    build_report([folder.path])
