"""Training from a config: mmengine's Runner.

What makes it adversarial is in the config (``segrobust.hooks``), and what makes a resume bitwise is put in where the
config lacks it.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from torch import distributed

from segrobust.core.errors import Interrupted, UserError, unknown_name
from segrobust.core.processes import together
from segrobust.datasets.pipeline import registered_type
from segrobust.hooks.console import QuietTrainRunner, failure_in_log, train_quietly
from segrobust.hooks.divergence import training_errors
from segrobust.hooks.exact_resume import complete, make_exact
from segrobust.hooks.full_disk import full_disk_told
from segrobust.hooks.load_from import listed_parts
from segrobust.hooks.train_runner import TrainRunner
from segrobust.models.checkpoint.loading import load_from_strict
from segrobust.models.deterministic import deterministic as repeating_on
from segrobust.models.load import own_segmenter
from segrobust.models.mm import load_config
from segrobust.models.mm_needs import check_packages
from segrobust.models.pretrained import refuse_downloads, without_pretrained

if TYPE_CHECKING:
    from mmengine import Config
    from mmengine.runner import Runner

NEEDED = ("model", "train_dataloader", "train_cfg", "optim_wrapper")
GUARDS = ("DivergenceHook", "OverfittingHook")
ONE_VALUE = "Expected more than 1 value per channel when training"  # torch, of batch normalisation
_LOG = logging.getLogger(__name__)


@together()
def train(
    config: str | os.PathLike | Config,
    work_dir: str | os.PathLike | None = None,
    resume: bool = False,
    amp: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = "none",
    deterministic: bool = True,
    verbose: bool = True,
) -> Runner:
    """Train what a config describes and return the runner that did it.

    Args:
        config: path of a config, or a config.
        work_dir: for logs and checkpoints; None: the config's own, or ``work_dirs/<name of the config>``.
        resume: go on from the last checkpoint in the work dir; where there is none, start anew.
        amp: mixed precision (CUDA only).
        cfg_options: dotted keys and values that override the config's.
        launcher: ``"none"``, or what started the processes: ``"pytorch"`` (torchrun), ``"slurm"`` or ``"mpi"``.
        deterministic: on a GPU too, training and attacks repeat bit for bit, and so does a resume; where an operation
            has no such form, that is told.
        verbose: all that mmengine logs on the console too; else one line of progress, a table of validations, and
            warnings. The log file has everything.

    Raises:
        UserError: the config cannot be read or cannot be trained, weights that it names do not fit or would have to be
            downloaded, ``amp`` without CUDA, more processes than GPUs, or a full disk.
        RunFailed: the training diverged.
        Interrupted: by Ctrl-C; it says how to go on.
    """
    refuse_too_many_processes(launcher)
    config = prepare(config, work_dir, resume, amp, cfg_options, launcher)
    deterministic = _repeating(config) and deterministic
    reasons = make_exact(config)
    started = _written(config)
    try:
        with full_disk_told(config.work_dir):
            return _train(config, reasons, deterministic, verbose)
    except KeyboardInterrupt as error:
        raise Interrupted(_how_to_go_on(config, started)) from error


def _train(config: Config, reasons: list[str], deterministic: bool, verbose: bool) -> Runner:
    grouped, runner = distributed.is_initialized(), None
    try:
        if config.launcher == "pytorch" and not torch.cuda.is_available():
            join_cpu_processes(config)
        runner = (TrainRunner if verbose else QuietTrainRunner).from_cfg(config)
        complete(runner, reasons)
        device = next(runner.model.parameters()).device
        with repeating_on(device, deterministic), failure_in_log(runner), training_errors(runner):
            runner.train() if verbose else train_quietly(runner)
    except KeyError as error:
        if "registry" in str(error):  # mmengine's word for a type= that does not exist
            raise UserError(" ".join(str(error.args[0]).split())) from error
        raise
    except ValueError as error:
        if ONE_VALUE in str(error):
            raise UserError(_one_image(runner)) from error
        raise
    finally:
        if distributed.is_initialized() and not grouped:
            distributed.destroy_process_group()
    return runner


def prepare(
    config: str | os.PathLike | Config,
    work_dir: str | os.PathLike | None,
    resume: bool,
    amp: bool,
    cfg_options: Mapping[str, Any] | None,
    launcher: str,
) -> Config:
    """The config with the arguments of :func:`train` in it; a given config object is left as it is."""
    if launcher == "none" and int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        raise UserError(f"torchrun started {os.environ['WORLD_SIZE']} processes, and each would train its own model "
                        "in the same folder; say --launcher pytorch")  # fmt: skip
    if isinstance(config, str | os.PathLike):
        config = load_config(config, cfg_options)
    else:
        config = copy.deepcopy(config)
        config.merge_from_dict(dict(cfg_options or {}))
    missing = [key for key in NEEDED if config.get(key) is None]
    stem = Path(config.filename or "config").stem
    if missing:
        raise UserError(f"{stem} cannot be trained: it has no {' and no '.join(missing)}")
    _check_optimizer(config)
    config.launcher = launcher
    config.work_dir = str(work_dir or config.get("work_dir") or Path("work_dirs") / stem)
    config.experiment_name = f"{stem}-{uuid4().hex[:8]}"  # mmengine keeps logs and scalars of one name in one place
    if config.get("visualizer"):
        config.visualizer.name = config.experiment_name
    if resume:
        _resume(config)
    if config.get("resume"):
        _keep_seed(config)
    if amp:
        _mixed_precision(config)
    _log_by_iteration(config)
    _guard(config)
    check_packages(config.model)
    return config


def _guard(config: Config) -> None:
    """Put in what watches every training, and make the weights that it starts from what the config says they are."""
    left_out = listed_parts(config.get("load_from_except"))
    elsewhere = () if config.get("resume") else left_out  # a checkpoint to go on from holds all weights
    own = own_segmenter(config.model) is not None  # those download nothing
    if config.get("load_from"):
        refuse_downloads(config.load_from, "load_from")
        config.model = config.model if own else without_pretrained(config.model.to_dict(), elsewhere)
    if not own and (elsewhere or not config.get("load_from")):
        refuse_downloads(config.model)
    if own:
        config.setdefault("find_unused_parameters", True)  # an auxiliary head has no gradient
        config.setdefault("default_scope", "mmseg")
    hooks = list(config.get("custom_hooks") or [])
    given = {hook.get("type") for hook in hooks if isinstance(hook, Mapping)}
    hooks += [dict(type=kind) for kind in GUARDS if kind not in given]
    hooks.append(dict(type="LoadFromHook", leave_out=list(left_out)))
    config.custom_hooks = hooks


def _log_by_iteration(config: Config) -> None:
    """Validations at their iteration where a training counts iterations: mmengine's default is the epoch, which stays
    0 there, and all of them would lie on one point of a curve."""
    from mmengine.registry import LOOPS
    from mmengine.runner import IterBasedTrainLoop

    loop, hooks = config.train_cfg, dict(config.get("default_hooks") or {})
    kind = registered_type(loop, LOOPS) if "type" in loop else None
    logger = hooks.get("logger", dict(type="LoggerHook"))
    if (kind is IterBasedTrainLoop or loop.get("by_epoch") is False) and isinstance(logger, Mapping):
        config.default_hooks = {**hooks, "logger": {"log_metric_by_epoch": False, **logger}}


def _check_optimizer(config: Config) -> None:
    """The one ``type=`` whose typing error mmengine tells as ``None is not a callable object``."""
    from mmengine.registry import OPTIMIZERS

    kind = config.optim_wrapper.get("optimizer", {}).get("type")
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise unknown_name("optimizer", kind, OPTIMIZERS.module_dict)


def _resume(config: Config) -> None:
    """Point to the last checkpoint, and not to ``load_from``, which mmengine would resume from."""
    last = _last_checkpoint(config)
    config.resume = last is not None
    if last is None:
        _LOG.warning("nothing to resume in %s; training starts anew", config.work_dir)
    else:
        config.load_from = str(last)


def _last_checkpoint(config: Config) -> Path | None:
    pointer = Path(config.work_dir, "last_checkpoint")
    if not pointer.is_file():
        return None
    last = Path(pointer.read_text().strip())
    beside = pointer.with_name(last.name)  # the folder may have been moved or copied
    return beside if beside.is_file() else last


def _keep_seed(config: Config) -> None:
    """The seed that the training began with, whatever the config says now: mmengine would take it up too late."""
    last = config.get("load_from") or _last_checkpoint(config)
    kept = load_from_strict(str(last))["meta"].get("seed") if last else None
    randomness = config.get("randomness") or {}
    if kept is None or randomness.get("seed") == kept:
        return
    if randomness.get("seed") is not None:
        _LOG.warning(
            "going on with the seed of the checkpoint, %s, and not with the config's, %s", kept, randomness.seed
        )
    config.randomness = {**randomness, "seed": kept}


def _written(config: Config) -> int | None:
    """When the last checkpoint in the work dir was written, if any, in nanoseconds."""
    pointer = Path(config.work_dir, "last_checkpoint")
    return pointer.stat().st_mtime_ns if pointer.is_file() else None


def _how_to_go_on(config: Config, started: int | None) -> str:
    """What to do after Ctrl-C; a checkpoint that was there before counts only for a training that resumed it."""
    now = _written(config)
    if now is None or (now == started and not config.get("resume")):
        return "there is no checkpoint of this training yet; run the same command again to start anew"
    return f"run the same command with --resume to go on from {_last_checkpoint(config).name}"


def _one_image(runner: Runner) -> str:
    """What to do where batch normalisation gets one value per channel."""
    loader = runner.train_dataloader
    images = len(loader.sampler) % loader.batch_size
    if loader.batch_size > 1 and images == 1:
        return (
            f"batch normalisation cannot train on a single value per channel, and the last batch of an epoch has one "
            f"image ({len(loader.sampler)} images, batch_size={loader.batch_size}): set drop_last=True in "
            f"train_dataloader, or another batch_size"
        )
    return (
        f"batch normalisation cannot train on a single value per channel (batch_size={loader.batch_size}, a map of 1x1 "
        f"pixel): set batch_size in train_dataloader to at least 2 images per process"
    )


def _repeating(config: Config) -> bool:
    """Whether the config leaves training repeatable; mmengine's own switch is taken out, with which every operation
    without a deterministic form ends the training."""
    return bool((config.get("randomness") or {}).pop("deterministic", True))


def refuse_too_many_processes(launcher: str) -> None:
    """UserError where torchrun started more processes on this machine than it has GPUs; on CPUs any number may run."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else None
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if launcher == "pytorch" and gpus is not None and processes > gpus:
        raise UserError(
            f"training needs a GPU for each process, and torchrun started {processes} processes on {gpus} GPU(s): "
            f"start it with --nproc_per_node {gpus}"
        )


def _mixed_precision(config: Config) -> None:
    if not torch.cuda.is_available():
        raise UserError("--amp needs a CUDA device, and there is none; leave it out")
    kind = config.optim_wrapper.get("type", "OptimWrapper")
    if kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise UserError(f"--amp works with optim_wrapper type OptimWrapper; this config has {kind}")
    config.optim_wrapper.type = "AmpOptimWrapper"
    config.optim_wrapper.setdefault("loss_scale", "dynamic")


def join_cpu_processes(config: Config) -> None:
    """Connect torchrun's processes where there is no GPU; mmengine's own way needs one."""
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    unused = config.get("find_unused_parameters", False)
    wrapper = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
    config.setdefault("model_wrapper_cfg", dict(**wrapper, find_unused_parameters=unused))
