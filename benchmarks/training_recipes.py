"""The recipes and architectures of training_table.py, a training config for each pair, and the sharing of a budget.

Imports no torch, so that a wrong option is told at once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segrobust.models.mm import load_config
from segrobust.models.shipped import shipped_model

if TYPE_CHECKING:
    from mmengine import Config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAME = "fpn/fpn_r18w24_1xb8-{}_camvid-180x240.py"
# Early stopping is left out: how long is trained, the budget decides.
RECIPES = {
    "standard": "std-strong-1800",
    "cepgdat": "cepgdat-linf4-s3-1500",
    "cepgdat-clean50": "cepgdat-clean50-linf4-s3-1500",
    "cepgdat-swa": "cepgdat-swa-linf4-s3-1500",
    "cepgdat-tsallisloss": "cepgdat-tsallisloss-linf4-s3-1500",
    "segpgdat": "segpgdat-linf4-s3-1500",
    "segpgdat-clean50-linf8": "segpgdat-clean50-linf8-s3-1500",
    "cospgdat": "cospgdat-linf4-s3-1500",
    "tsallispgdat": "tsallispgdat-linf4-s3-1500",
    "sharppgdat": "sharppgdat-linf4-s3-1500",
    "almaproxat": "almaproxat-linf4-s5-1000",
    "rppgdat": "rppgdat-linf4-s3-1500",
    "trades": "trades-linf4-s3-1070",
    "mart": "mart-linf4-s3-1500",
    "fastat": "fastat-linf4-s1-1500",
    "ddcat": "ddcat-linf4-s3-1500",
    "freeat": "freeat-linf4-m4-1500",
    "cepgdat-kept": "cepgdat-kept-linf4-s1-1500",
    "cepgdat-bf16": "cepgdat-bf16-linf4-s3-1500",
    "cepgdat-half": "cepgdat-half-linf4-s3-1500",
}
FPN = "fpn-r18w24"
ARCHITECTURES = {  # and whose config describes the model; None: that of the recipe
    FPN: None,
    "upernet-convnext-t": str(CONFIGS / "upernet/upernet_convnext-t_4xb2-160k_cityscapes-512x1024.py"),
    "upernet-r50": "mmseg::_base_/models/upernet_r50.py",
}
SHIPPED = "camvid-fpn-r18w24-std-180x240"
STARTS = ("shipped", "random")
DTYPES = {"float32": None, "bf16": "bfloat16", "fp16": "float16"}
STEP = 3  # passes of a training step: a forward and a full backward, which is two
WARM_UPS = ("start", "eps_warmup", "steps_warmup", "begin_iter")
MOST_MOMENTUM = 0.5
DROP_PATH = 0.1  # in place of 0.4, for short trainings from random weights


@dataclass(frozen=True)
class Work:
    """What a recipe has still to do, in seconds, and its iterations: planned (None: not begun) and done."""

    iteration: float
    setup: float
    evaluation: float
    planned: int | None = None
    done: int = 0

    @property
    def trained(self) -> bool:
        return self.planned is not None and self.done >= self.planned


def spread(seconds: float, works: Mapping[str, Work]) -> dict[str, int]:
    """Iterations of each from now on, so that all are trained and evaluated within the seconds.

    What is begun goes on to its planned end first, as far as time allows; the rest of the time is shared equally, in
    seconds, among what is not begun. Evaluations and set-ups are set aside before.
    """
    time = seconds - sum(one.evaluation + (0.0 if one.trained else one.setup) for one in works.values())
    found = dict.fromkeys(works, 0)
    for name, one in works.items():
        if one.planned is not None:
            found[name] = min(one.planned - one.done, _fitting(time, one.iteration))
            time -= found[name] * one.iteration
    new = [name for name, one in works.items() if one.planned is None]
    for name in new:
        found[name] = _fitting(time / len(new), works[name].iteration)
    return found


def _fitting(seconds: float, each: float) -> int:
    return max(0, int(seconds / each + 1e-9))


def recipe_config(
    recipe: str, architecture: str, size: tuple[int, int], start: str, batch_size: int, precision: str, seed: int
) -> Config:
    """The recipe's config for an architecture at (height, width), with the length that it has in configs/fpn."""
    config = load_config(CONFIGS / NAME.format(RECIPES[recipe]))
    if (source := ARCHITECTURES[architecture]) is not None:
        config.model = _upernet(load_config(source).model, config.model)
    _resize(config, *size)
    shipped = start == "shipped" and architecture == FPN
    config.load_from = str(shipped_model(SHIPPED).weights_path) if shipped else None
    config.train_dataloader.batch_size = batch_size
    if "batch_size" in config.train_dataloader.sampler:
        config.train_dataloader.sampler.batch_size = batch_size
    config.randomness = dict(seed=seed)
    config.log_level = "WARNING"  # the console is the table's
    if dtype := DTYPES[precision]:
        scale = "dynamic" if precision == "fp16" else 1.0
        config.optim_wrapper.update(type="AmpOptimWrapper", dtype=dtype, loss_scale=scale)
    return config


def _upernet(model: Config, recipe: Config) -> Config:
    """The other architecture with what the recipe says of images, classes and losses, for one process."""
    model.type, model.pretrained = recipe.type, None
    model.data_preprocessor = recipe.data_preprocessor
    if "drop_path_rate" in model.backbone:
        model.backbone.drop_path_rate = DROP_PATH
    for head in (model.decode_head, model.auxiliary_head):
        head.num_classes = recipe.decode_head.num_classes
        head.loss_decode = {**recipe.decode_head.loss_decode, "loss_weight": head.loss_decode.loss_weight}
    for part in (model.backbone, model.decode_head, model.auxiliary_head):
        if "norm_cfg" in part:
            part.norm_cfg.type = "BN"
    return model


def _resize(config: Config, height: int, width: int) -> None:
    config.model.data_preprocessor.size = (height, width)
    for split in ("train", "val", "test"):
        dataset = config[f"{split}_dataloader"].dataset
        pipeline = dataset.get("dataset", dataset).pipeline
        cropped = any(step.type == "RandomCrop" for step in pipeline)
        for step in pipeline:
            if step.type == "RandomResize" or (step.type == "LoadPair" and not cropped):
                step.scale = (width, height)
            elif step.type == "RandomCrop":
                step.crop_size = (height, width)


def scaled(config: Config, iterations: int, interval: int) -> Config:
    """A copy that trains for so many iterations, with a checkpoint every ``interval``.

    Learning rates, warm-ups and the window of the averaged weights keep their share of the training. Without
    validation, whose time the budget does not know: evaluation follows.
    """
    config = copy.deepcopy(config)
    factor = iterations / config.train_cfg.max_iters
    for one in config.param_scheduler:
        one.begin, one.end = round(one.begin * factor), round(one.end * factor)
    config.param_scheduler = [one for one in config.param_scheduler if one.end - one.begin >= 2]
    for hook in config.custom_hooks:
        for name in set(WARM_UPS) & set(hook):
            hook[name] = round(hook[name] * factor)
        if "momentum" in hook:
            hook["momentum"] = min(MOST_MOMENTUM, hook["momentum"] / factor)
    config.train_cfg.update(max_iters=iterations, val_begin=iterations + 1)
    config.default_hooks.checkpoint.update(interval=interval, save_best=None)
    return config


def passes(config: Config) -> float:
    """Forward and input-gradient passes of an iteration over the whole batch, once the attack has begun."""
    from segrobust import build_attack

    hook = next((one for one in config.custom_hooks if one["type"] == "AdversarialTrainingHook"), None)
    if hook is None:
        return STEP
    paired = hook.get("loss") or config.model.type == "DDCAT"  # such a loss sees the clean images, too
    steps = 2 * STEP if paired else STEP
    return sum(build_attack(hook["attack"]).passes()) * (1 - hook.get("clean_ratio", 0.0)) + steps
