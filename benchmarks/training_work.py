"""What training_table.py does to one recipe: measure its cost, train it up to a moment, write its weights, evaluate."""

from __future__ import annotations

import copy
import gc
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from benchmarks.training_job import Job
from benchmarks.training_recipes import scaled
from segrobust import evaluate, load_segmenter
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.attacks.base import AttackContractError
from segrobust.attacks.gradient import ModelError
from segrobust.commands.data import source_from_config
from segrobust.commands.training import train
from segrobust.core.errors import RunFailed, UserError, first_line
from segrobust.models.checkpoint.loading import convert_checkpoint
from segrobust.models.failures import out_of_memory
from segrobust.models.mm import load_config

LEAST = 3  # iterations of a measurement, the first of which do not count
CHECKPOINT_SECONDS = 120
CONFIG = "config.py"
OURS = dict(checks=False, pictures=False, quiet=True)


@HOOKS.register_module()
class DeadlineHook(Hook):
    """Ends a training at a moment of ``time.monotonic``, with a checkpoint from which a resume goes on.

    Args:
        deadline: in seconds.
        least: iterations that are made in any case.
    """

    priority = "LOWEST"  # after the schedulers and the averaged weights of the iteration

    def __init__(self, deadline: float, least: int = 1) -> None:
        self.deadline, self.least = deadline, least

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        done = runner.iter + 1
        if time.monotonic() < self.deadline or done < self.least or done == runner.max_iters:
            return
        name = f"iter_{done}.pth"
        runner.save_checkpoint(runner.work_dir, name, by_epoch=False)
        Path(runner.work_dir, "last_checkpoint").write_text(str(Path(runner.work_dir, name)))
        runner.train_loop.stop_training = True


@contextmanager
def failures(job: Job) -> Iterator[None]:
    """A recipe that diverges or does not fit into memory is told in its row, and the others go on."""
    try:
        yield
    except (RunFailed, ModelError, AttackContractError, RuntimeError, MemoryError) as error:
        full = out_of_memory(error)
        if not full and not isinstance(error, RunFailed | ModelError | AttackContractError):
            raise
        job.retry = False
        job.keep(failed="out of memory; try a smaller --batch-size" if full else first_line(error))
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def measured(job: Job, warm: int, count: int, seconds: float) -> dict[str, float]:
    """Seconds of an iteration, after the warm ones, and of all else in a training, by a short one that is thrown away.

    Within ``seconds`` at most ``warm + count`` iterations are made, and at least three.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="training-table-") as folder:
        file = _dumped(scaled(job.config, warm + count, warm + count), Path(folder))
        runner = train(_until(file, begun + seconds, LEAST), work_dir=Path(folder, "training"))
        iteration, whole = cost_of(_times(runner), warm, time.monotonic() - begun)
    return {"iteration": iteration, "setup": whole}


def cost_of(times: list[float], warm: int, whole: float) -> tuple[float, float]:
    """Mean seconds of an iteration without the warm ones, and what is left of the whole beside all iterations.

    Of few iterations the last third counts.
    """
    counted = times[min(warm, 2 * len(times) // 3) :]
    iteration = math.fsum(counted) / len(counted)
    return iteration, max(0.0, whole - iteration * len(times))


def trained(job: Job, iterations: int, passes: float, cost: float, deadline: float) -> None:
    """Train for so many iterations in all, going on from the last checkpoint; pauses at the deadline."""
    if job.planned is None:
        job.keep(iterations=iterations, passes=passes)
        interval = min(iterations, max(1, round(CHECKPOINT_SECONDS / cost)))
        _dumped(scaled(job.config, iterations, interval), job.folder)
    config = _until(job.folder / CONFIG, deadline)
    runner = train(config, work_dir=job.training, resume=job.planned is not None)
    times = _times(runner)
    job.keep(seconds=math.fsum(times) / len(times))


def _dumped(config: Config, folder: Path) -> Path:
    config.dump(folder / CONFIG)
    return folder / CONFIG


def _until(file: Path, deadline: float, least: int = 1) -> Config:
    """The config in a file, which the hook must not be in: what is there, ``segrobust train`` takes too."""
    config = load_config(file)
    config.custom_hooks = [*config.custom_hooks, dict(type="DeadlineHook", deadline=deadline, least=least)]
    return config


def _times(runner: Any) -> list[float]:
    """Seconds of all iterations, those before a resume included, with loading and attack."""
    return runner.message_hub.get_scalar("train/time").data[0].tolist()


@dataclass(frozen=True)
class Evaluation:
    """``Standard`` on evenly spaced images of the validation split."""

    eps: str
    steps: int
    num_images: int
    batch_size: int

    @property
    def key(self) -> str:
        return f"standard-{self.eps.replace('/', '-')}-{self.steps}-{self.num_images}"

    def source(self, config: Config) -> Any:
        config = copy.deepcopy(config)
        config.test_dataloader.dataset.split = "val"
        return source_from_config(config, "test", self.num_images)

    def run(self, config: Config, weights: Path | None, **more: Any) -> Any:
        """What ``evaluate`` returns."""
        settings = dict(steps=self.steps, batch_size=self.batch_size, attack_defaults=config.attack_defaults)
        model = load_segmenter(config, weights)
        return evaluate(model, self.source(config), ["Standard"], [self.eps], **settings, **OURS, **more)

    def seconds(self, config: Config) -> float:
        """An estimate for a network that is not trained yet, its set-up included."""
        if torch.cuda.is_available():  # what is compiled at its first use is not asked for again
            self.run(config, config.load_from, dry_run=True)
        begun = time.monotonic()
        found = self.run(config, config.load_from, dry_run=True).seconds
        return found + 2 * (time.monotonic() - begun)  # a model is loaded twice, the second time in float32

    def clean(self, config: Config, weights: Path, kind: str | None) -> float:
        """mIoU on clean images."""
        model = load_segmenter(config, weights, weights=kind)
        return evaluate(model, self.source(config), (), batch_size=self.batch_size, **OURS)[0]["mIoU"]


def written(job: Job) -> None:
    """The averaged weights of the last checkpoint in half precision, for evaluation and for shipping."""
    try:
        convert_checkpoint(job.checkpoint, job.weights, half=True, weights="ema")
    except UserError as error:  # a number that is too large
        raise RunFailed(str(error)) from error
    job.keep(megabytes=job.weights.stat().st_size / 1e6)


def evaluated(job: Job, how: Evaluation) -> None:
    """Clean scores, the worst case, and what half precision changes; a run folder that goes on where it was."""
    begun = time.monotonic()
    written(job)
    records = how.run(job.config, job.weights, work_dir=job.folder / how.key)
    clean, worst = records[0], next(one for one in records if one["study"] == WORST_CASE)
    found = {
        "clean": {name: clean[name] for name in ("aAcc", "mIoU")},
        "worst": {name: worst[name] for name in ("aAcc", "mIoU", "mIoU_greedy")},
        "interval": worst["ci"]["mIoU_greedy"],
        "clean_mIoU_float32": how.clean(job.config, job.checkpoint, "ema"),
        "seconds": time.monotonic() - begun,
    }
    job.keep(evaluations={**job.state.get("evaluations", {}), how.key: found})
