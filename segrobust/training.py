"""Training from a config: ``train("configs/fpn/x.py", work_dir="work_dirs/x", resume=True)``.

An ordinary mmengine Runner; what makes it adversarial or resumable is in the config (``segrobust.hooks``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from torch import distributed

from segrobust.errors import UserError, unknown_name
from segrobust.mm import import_mmseg, load_config
from segrobust.models.pretrained import refuse_downloads, without_pretrained

if TYPE_CHECKING:
    from mmengine import Config
    from mmengine.runner import Runner

NEEDED = ("model", "train_dataloader", "train_cfg", "optim_wrapper")
GUARDS = ("DivergenceHook", "OverfittingHook")
_LOG = logging.getLogger(__name__)


def train(
    config: str | os.PathLike | Config,
    work_dir: str | os.PathLike | None = None,
    resume: bool = False,
    amp: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = "none",
) -> Runner:
    """Train what a config describes and return the runner that did it.

    Args:
        config: path of a config, or a config.
        work_dir: for logs and checkpoints; None: the config's own, or ``work_dirs/<name of the config>``.
        resume: go on from the last checkpoint in the work dir; where there is none, start anew.
        amp: mixed precision (CUDA only).
        cfg_options: dotted keys and values that override the config's.
        launcher: ``"none"``, or what started the processes: ``"pytorch"`` (torchrun), ``"slurm"`` or ``"mpi"``.

    Raises:
        UserError: the config cannot be read or cannot be trained, weights that it names do not fit or would have to be
            downloaded, or ``amp`` without CUDA.
        RunFailed: the training diverged, or the disk is full.
    """
    import_mmseg()
    from mmengine.runner import Runner

    from segrobust.hooks.divergence import failures_in_one_line

    config = prepare(config, work_dir, resume, amp, cfg_options, launcher)
    grouped = distributed.is_initialized()
    try:
        if launcher == "pytorch" and not torch.cuda.is_available():
            join_cpu_processes(config)
        runner = Runner.from_cfg(config)
        runner.model.to(memory_format=torch.channels_last)  # a third faster on a CPU than the usual format
        with failures_in_one_line(runner):
            runner.train()
    except KeyError as error:
        if "registry" in str(error):  # mmengine's word for a type= that does not exist
            raise UserError(" ".join(str(error.args[0]).split())) from error
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
    if isinstance(config, str | os.PathLike):
        config = load_config(config, cfg_options)
    else:
        config = config.copy()
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
    if amp:
        _mixed_precision(config)
    _guard(config)
    return config


def _guard(config: Config) -> None:
    """Put in what watches every training, and make the weights that it starts from what the config says they are."""
    if config.get("load_from"):
        refuse_downloads(config.load_from, "load_from")
        config.model = without_pretrained(config.model.to_dict())  # all weights come from that file
    else:
        refuse_downloads(config.model)
    hooks = list(config.get("custom_hooks") or [])
    given = {hook.get("type") for hook in hooks if isinstance(hook, Mapping)}
    hooks += [dict(type=kind) for kind in GUARDS if kind not in given]
    hooks.append(dict(type="LoadFromHook", leave_out=config.get("load_from_except") or []))
    config.custom_hooks = hooks


def _check_optimizer(config: Config) -> None:
    """The one ``type=`` whose typing error mmengine tells as ``None is not a callable object``."""
    from mmengine.registry import OPTIMIZERS

    kind = config.optim_wrapper.get("optimizer", {}).get("type")
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise unknown_name("optimizer", kind, OPTIMIZERS.module_dict)


def _resume(config: Config) -> None:
    """Point to the last checkpoint, and not to ``load_from``, which mmengine would resume from."""
    pointer = Path(config.work_dir, "last_checkpoint")
    config.resume = pointer.is_file()
    if not config.resume:
        _LOG.warning("nothing to resume in %s; training starts anew", config.work_dir)
        return
    last = Path(pointer.read_text().strip())
    beside = pointer.with_name(last.name)  # the folder may have been moved or copied
    config.load_from = str(beside if beside.is_file() else last)


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
