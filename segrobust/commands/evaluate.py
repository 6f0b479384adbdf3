"""What ``segrobust evaluate`` does: from a config and a checkpoint to a finished run folder."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from segrobust.analysis.summary import Record
from segrobust.attacks.base import AttackContractError
from segrobust.attacks.gradient import ModelError
from segrobust.commands.data import majority_of_config, source_from_config
from segrobust.commands.evaluation import Origin, evaluate
from segrobust.commands.inputs import Inputs, model_name
from segrobust.commands.parsing import parse_cfg_options
from segrobust.core.errors import RunFailed, UserError
from segrobust.core.files import replace_file
from segrobust.datasets.classes import check_class_order
from segrobust.datasets.majority import colour_png, id_png
from segrobust.datasets.targets import build_target
from segrobust.models.checkpoint.averaged import weights_in
from segrobust.models.checkpoint.reading import read_checkpoint, sha256, stored_class_names
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.segmenter import Segmenter
from segrobust.models.shipped import shipped_model
from segrobust.report.table import print_checks, print_table
from segrobust.report.trust import load_trust
from segrobust.runs.differences import differences
from segrobust.runs.folder import RunFolder
from segrobust.runs.settings import Settings

if TYPE_CHECKING:
    from mmengine import Config

FIT_IMAGES = 16  # of the config's val split, at most: what a universal perturbation or patch is fitted on


def evaluate_command(inputs: Inputs, settings: Settings) -> Path:
    """Load, attack, report; prints the table and returns the run folder.

    Raises:
        RunFailed: the model cannot be attacked, or a trust check says that the results are not trustworthy.
    """
    cfg_options = parse_cfg_options(inputs.cfg_options)
    cfg, work_dir = load_config(inputs.config, cfg_options), inputs.work_dir
    folder = RunFolder(work_dir)
    known = [] if settings.fresh else [one["index"] for one in folder.images().entries if "index" in one]
    source = source_from_config(cfg, "test", inputs.num_images, known)
    weights = _weights(inputs.config, inputs.checkpoint)
    target = settings.target
    majority = target and _stored_majority(work_dir, target, settings.fresh)
    majority = majority or functools.partial(majority_of_config, cfg, source)
    target = target and build_target(target, source, majority)
    model = _segmenter(inputs.config, weights, inputs, cfg, weights=inputs.weights)
    if not inputs.trust_checkpoint:  # such a file may run any program, once is enough
        check_class_order(source.class_names, stored_class_names(weights), "the checkpoint")
    settings = settings.with_(
        target=target,
        surrogate=inputs.surrogate and _surrogate(inputs, source.class_names),
        fit_on=source_from_config(cfg, "val", FIT_IMAGES) if settings.universal else None,
        attack_defaults=cfg.get("attack_defaults"),
        declared=cfg.get("declared"),
    )
    try:
        summary = evaluate(model, source, work_dir=work_dir, origin=_origin(inputs, cfg, weights), **vars(settings))
    except (AttackContractError, ModelError) as error:
        _print_trust(work_dir, settings.checks)
        raise RunFailed(f"the run failed: {error}") from error
    if int(os.environ.get("RANK", "0")) == 0:
        _print_results(work_dir, model.name, summary, settings.checks)
    return work_dir


def _origin(inputs: Inputs, cfg: Config, weights: str | Path) -> Origin:
    identity = {
        "config": model_name(inputs.config),
        "dataset": str(cfg.test_dataloader.dataset.type),
        "checkpoint": Path(weights).name,
        "checkpoint_sha256": sha256(weights),
        "checkpoint_trusted": inputs.trust_checkpoint,
    }
    return Origin(identity=identity, about={"options": _options()}, files={"checkpoint_sha256": Path(weights)})


def _print_results(work_dir: Path, name: str, summary: Sequence[Record], checks: bool) -> None:
    """Tables, checks and where the report is; RunFailed: a check says that the results are not trustworthy."""
    console, trust, report = Console(), load_trust(work_dir), work_dir / "report.html"
    print_table({name: summary}, console, {name: trust})
    _print_trust(work_dir, checks)
    console.print(RunFolder(work_dir).read_json("run.json")["about"].get("sizes", ""), soft_wrap=True, markup=False)
    _print_accepted(work_dir, console)
    console.print(f"report: {report}", soft_wrap=True, markup=False)
    if trust and trust.failed:
        raise RunFailed(f"the results are not trustworthy: {trust.failed}; see {report}")


def _weights(config: str, checkpoint: str | Path | None) -> str | Path:
    shipped = shipped_model(config)
    weights = checkpoint or (shipped and shipped.weights_path)
    if weights is None:
        raise UserError(f"{config} brings no weights; name a checkpoint for it")
    return weights


def _segmenter(
    config: str, checkpoint: str | Path | None, inputs: Inputs, cfg: Config | None = None, weights: str | None = None
) -> Segmenter:
    """The model that ``config`` names, read as ``cfg``."""
    cfg = load_config(config) if cfg is None else cfg
    given = {name: getattr(inputs, name) for name in ("trust_checkpoint", "checkpointing", "channels_last")}
    model = load_segmenter(cfg, checkpoint, device=_device(), weights=weights, **given)
    model.name = model_name(config)
    return model


def _surrogate(inputs: Inputs, classes: Sequence[str]) -> Segmenter:
    """The model that is attacked instead, of the same classes; a file with one kind of weights has no other to give."""
    checkpoint, kind = _weights(inputs.surrogate, inputs.surrogate_checkpoint), inputs.weights
    if kind and weights_in(read_checkpoint(checkpoint, inputs.trust_checkpoint), checkpoint).others is None:
        kind = None
    model = _segmenter(inputs.surrogate, checkpoint, inputs, weights=kind)
    if not inputs.trust_checkpoint:
        check_class_order(classes, stored_class_names(checkpoint), "the --surrogate checkpoint")
    return model


def _print_trust(work_dir: Path, checks: bool) -> None:
    trust = load_trust(work_dir)
    if trust and checks and int(os.environ.get("RANK", "0")) == 0:
        print_checks(trust, Console())


def _print_accepted(work_dir: Path, console: Console) -> None:
    for one in RunFolder(work_dir).read_json("run.json").get("accepted_different", ()):
        changed = "; ".join(differences(one["stored"], one["now"]))
        text = f"with rows of different {one['what']}, accepted on {one['date']}: {changed}"
        console.print(text, style="yellow", soft_wrap=True, markup=False)


def _stored_majority(work_dir: Path, target: str, fresh: bool) -> Path | None:
    """The majority map of an earlier start of the same run: reading all training labels once is enough."""
    file = work_dir / "target.png"
    if fresh or target != "majority" or not file.is_file() or not (work_dir / "run.json").is_file():
        return None
    stored = RunFolder(work_dir).read_json("run.json")
    identity = stored.get("identity") if isinstance(stored, dict) else None
    same = isinstance(identity, dict) and (identity.get("target") or {}).get("spec") == target
    return file if same else None


def targets_command(config: str, out: Path, cfg_options: dict[str, Any] | None = None) -> list[Path]:
    """Write the majority map of a config's training labels as ids, and beside it in the classes' colours."""
    cfg = load_config(config, cfg_options)
    source = source_from_config(cfg, "test", 1)
    ids = majority_of_config(cfg, source)
    colours = out.with_name(f"{out.stem}-colours.png")
    replace_file(out, id_png(ids))
    replace_file(colours, colour_png(ids, source.palette, source.ignore_index))
    return [out, colours]


def _device() -> str:
    """This process's own GPU, where there is one."""
    if not torch.cuda.is_available():
        return "cpu"
    place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= gpus:
        raise UserError(f"expected at most one process per GPU, got process {place + 1} of {gpus} GPU(s); start fewer")
    return f"cuda:{place}"


def _options() -> list[str]:
    """The words of the command line, without the folders in them."""
    return [Path(word).name if "/" in word and not word[0].isdigit() else word for word in sys.argv[1:]]
