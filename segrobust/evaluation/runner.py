"""Evaluation: every image under every attack at every radius, as rows in a run folder.

    summary = evaluate(model, source, ["TsallisPGD", "CosPGD"], eps=["1/255", "4/255"], work_dir="work_dirs/mine")

Batch i holds the same images whatever the number of processes, and processes take whole batches; so 1, 2 or 8
processes and a resumed run give the same rows. Start several with ``torchrun tools/evaluate.py ...``.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from segrobust.attacks.base import FOUND_SHARE
from segrobust.datasets.source import Source
from segrobust.errors import UserError
from segrobust.evaluation.durable import replace_file
from segrobust.evaluation.jobs import Job, plan_jobs
from segrobust.evaluation.metrics import confusion_counts, sparse_counts
from segrobust.evaluation.pictures import write_pictures
from segrobust.evaluation.progress import ImageProgress
from segrobust.evaluation.store import Row, RunFolder
from segrobust.evaluation.summary import Record, summarise
from segrobust.models.segmenter import Segmenter, frozen_eval
from segrobust.report import build_report


class Evaluation:
    """One run: model, images and jobs, on this process's share of the batches."""

    def __init__(self, model, source: Source, jobs: Sequence[Job], folder: RunFolder, **settings: Any) -> None:
        self.model, self.source, self.jobs, self.folder = model, source, jobs, folder
        self.batch_size: int = settings["batch_size"]
        self.seed: int = settings["seed"]
        self.amp: bool = settings["amp"]
        self.save_adversarial: bool = settings["save_adversarial"]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def batches(self) -> list[range]:
        count = len(self.source)
        return [range(at, min(at + self.batch_size, count)) for at in range(0, count, self.batch_size)]

    def run(self, rank: int = 0, world: int = 1) -> None:
        """Compute the missing rows of batches rank, rank + world, ..."""
        own = self.batches()[rank::world]
        done = {(row["attack"], row["eps"], row["image"]) for row in self.folder.rows()}
        pairs = [(job, batch) for job in self.jobs for batch in own]
        todo = [(job, batch) for job, batch in pairs if not all(self._is_done(job, i, done) for i in batch)]
        total = sum(len(batch) for _, batch in pairs)
        missing = sum(len(batch) for _, batch in todo)
        work = sum(job.passes * len(batch) for job, batch in todo)
        with self.folder.writer(rank) as writer, ImageProgress(total, total - missing, work, rank == 0) as progress:
            for job, batch in todo:
                started = time.perf_counter()
                rows = self.attack_batch(job, batch)
                seconds = (time.perf_counter() - started) / len(rows)
                writer.append(rows, [seconds] * len(rows))
                progress.advance(len(rows), job.passes * len(rows), job.title)

    def _is_done(self, job: Job, image: int, done: set) -> bool:
        wanted = self.save_adversarial and job.attack
        return (job.label, job.eps, image) in done and not (wanted and not self._file(job, image).is_file())

    def attack_batch(self, job: Job, batch: range) -> list[Row]:
        """Rows of one batch; images of different sizes go in groups of equal size."""
        samples = {i: self.source[i] for i in batch}
        groups: dict[tuple, list[int]] = {}
        for i, sample in samples.items():
            groups.setdefault(tuple(sample.label.shape), []).append(i)
        rows = []
        for ids in groups.values():
            images = torch.stack([samples[i].image for i in ids]).to(self.device)
            labels = torch.stack([samples[i].label for i in ids]).to(self.device)
            points, passes = self.adversarial(job, images, labels, ids)
            rows += self._rows(job, ids, [samples[i].name for i in ids], images, labels, points, passes)
        return sorted(rows, key=lambda row: row["image"])

    def adversarial(self, job: Job, images: Tensor, labels: Tensor, ids: Sequence[int]) -> tuple[Tensor, list]:
        """The attacked images, and (forwards, backwards) per image."""
        if job.attack is None:
            return images, [(1, 0)] * len(ids)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            result = job.attack(
                self.model, images, labels, ignore_index=self.source.ignore_index, seeds=image_seeds(self.seed, ids)
            )
        return result.images, list(zip(result.forwards.tolist(), result.backwards.tolist(), strict=True))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Class ids ``[N, H, W]`` from one forward in float32: what is reported."""
        with frozen_eval(self.model):
            return self.model(images.float()).argmax(1)

    def _rows(self, job, ids, names, images, labels, points, passes) -> list[Row]:
        source = self.source
        tp, fp, fn = confusion_counts(self.predict(points), labels, source.num_classes, source.ignore_index)
        distance = job.attack.threat.distance(points - images).tolist() if job.attack else [0.0] * len(ids)
        valid = tp.sum(1) + fn.sum(1)
        found = (fn.sum(1) >= FOUND_SHARE * valid) & (valid > 0)
        if self.save_adversarial and job.attack:
            self._save(job, ids, points)
        return [
            Row(
                image=image,
                name=names[n],
                attack=job.label,
                norm=job.attack.norm if job.attack else None,
                eps=job.eps,
                height=labels.shape[1],
                width=labels.shape[2],
                **sparse_counts(tp[n], fp[n], fn[n]),
                distance=distance[n],
                found=bool(found[n]) and job.attack is not None,
                forwards=passes[n][0],
                backwards=passes[n][1],
            )
            for n, image in enumerate(ids)
        ]

    def _save(self, job: Job, ids: Sequence[int], points: Tensor) -> None:
        for image, point in zip(ids, points, strict=True):
            file = self._file(job, image)
            file.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            np.save(buffer, point.cpu().numpy())
            replace_file(file, buffer.getvalue())

    def _file(self, job: Job, image: int) -> Path:
        name = job.title.translate(str.maketrans("/ :", "-_-"))
        return self.folder.path / "adversarial" / name / f"{image:06d}.npy"


def image_seeds(seed: int, ids: Sequence[int]) -> list[int]:
    """One seed per image from the run's seed and the image's place in the data set."""
    return [int(np.random.SeedSequence((seed, image)).generate_state(1)[0]) for image in ids]


def weights_sha256(model: torch.nn.Module) -> str:
    """Digest of all parameters and buffers, with their names and types."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def evaluate(
    model: Segmenter,
    dataset: Source,
    attacks: Sequence[Any] = ("TsallisPGD",),
    eps: Sequence[float | str] = ("4/255",),
    *,
    work_dir: str | Path,
    steps: int | None = None,
    batch_size: int = 4,
    seed: int = 0,
    amp: bool = False,
    fresh: bool = False,
    save_adversarial: bool = False,
    attack_defaults: dict | None = None,
    identity: dict[str, Any] | None = None,
    about: dict[str, Any] | None = None,
) -> list[Record]:
    """Attack every image of ``dataset`` and leave rows, summary, pictures and report in ``work_dir``.

    Args:
        model: a Segmenter, on the device to use; under torchrun it is moved to the process's own device.
        dataset: a :class:`segrobust.datasets.source.Source`.
        attacks: names, configs or attack objects; each runs at every radius of ``eps``.
        steps: overrides the attacks' own number of steps.
        amp: bfloat16 for the attacks' gradients; the reported predictions are float32 all the same.
        fresh: discard what ``work_dir`` holds instead of going on with it.
        save_adversarial: keep the attacked images as ``adversarial/<attack>_<eps>/<image>.npy`` (float32, RGB, [0, 1]).
        identity, about: more to store in ``run.json``; a run with another identity is not continued.

    Returns:
        The records of ``summary.json``; on processes other than the main one as well.

    Raises:
        UserError: model and data set do not fit, or ``work_dir`` holds a run with other settings.
    """
    if model.num_classes != dataset.num_classes:
        raise UserError(f"the model has {model.num_classes} classes, the data set {dataset.num_classes}")
    if batch_size < 1:
        raise UserError(f"batch_size: expected at least 1, got {batch_size}")
    jobs = plan_jobs(attacks, eps, steps, attack_defaults)
    # early processes wait for late ones, and an attack may take hours
    state = PartialState(cpu=next(model.parameters()).device.type == "cpu", timeout=timedelta(days=7))
    if state.num_processes > 1:
        model.to(state.device)
    folder = RunFolder(work_dir)
    if state.is_main_process:
        run = {**(identity or {}), **_identity(model, dataset, jobs, batch_size, seed, amp)}
        folder.open(run, fresh=fresh, about=about)
    state.wait_for_everyone()
    settings = {"batch_size": batch_size, "seed": seed, "amp": amp, "save_adversarial": save_adversarial}
    evaluation = Evaluation(model, dataset, jobs, folder, **settings)
    evaluation.run(state.process_index, state.num_processes)
    state.wait_for_everyone()
    if state.is_main_process:
        _finish(evaluation)
    state.wait_for_everyone()
    return folder.read_json("summary.json")


def _identity(model, dataset: Source, jobs: Sequence[Job], batch_size: int, seed: int, amp: bool) -> dict[str, Any]:
    attacks: dict[str, Any] = {}
    for job in jobs[1:]:
        attacks.setdefault(job.label, {**job.attack.fields(), "eps": []})["eps"].append(job.eps)
    return {
        "model": model.name,
        "weights_sha256": weights_sha256(model),
        "num_classes": model.num_classes,
        "class_names": list(dataset.class_names),
        "palette": [list(colour) for colour in dataset.palette],
        "images": len(dataset),
        "dataset_fingerprint": dataset.fingerprint(),
        "attacks": attacks,
        "batch_size": batch_size,
        "seed": seed,
        "amp": amp,
    }


def _finish(evaluation: Evaluation) -> None:
    """Summary, pictures and report from complete rows."""
    folder = evaluation.folder
    rows = folder.rows()
    found = {(row["attack"], row["eps"], row["image"]) for row in rows}
    wanted = {(job.label, job.eps, i) for job in evaluation.jobs for i in range(len(evaluation.source))}
    if found != wanted:
        raise RuntimeError(f"{folder.path}: {len(wanted - found)} rows missing and {len(found - wanted)} unknown")
    controls = {job.label for job in evaluation.jobs if job.attack and job.attack.control}
    summary = summarise(rows, evaluation.source.num_classes, folder.timings(), controls=controls)
    folder.write_json("summary.json", summary)
    write_pictures(evaluation, summary, rows)
    build_report([folder.path])
