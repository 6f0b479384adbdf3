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

from segrobust.attacks.base import AttackContractError
from segrobust.attacks.gradient import ModelError
from segrobust.commands.data import majority_of_config, source_from_config
from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import RunFailed, UserError
from segrobust.core.files import replace_file
from segrobust.datasets.classes import check_class_order
from segrobust.datasets.majority import colour_png, id_png
from segrobust.datasets.targets import build_target
from segrobust.models.checkpoint.averaged import weights_in
from segrobust.models.checkpoint.class_names import stored_class_names
from segrobust.models.checkpoint.reading import read_checkpoint, sha256
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.segmenter import Segmenter
from segrobust.models.shipped import shipped_model
from segrobust.report.table import print_table
from segrobust.report.trust import load_trust, print_checks
from segrobust.runs.differences import differences
from segrobust.runs.folder import RunFolder

if TYPE_CHECKING:
    from mmengine import Config


def evaluate_command(
    config: str,
    checkpoint: str | Path | None,
    attacks: Sequence[str],
    eps: Sequence[str],
    *,
    work_dir: str | Path,
    steps: int | None = None,
    num_images: int | None = None,
    batch_size: int | str = 4,
    fresh: bool = False,
    amp: bool | str = False,
    channels_last: bool = True,
    checkpointing: bool = False,
    save_adversarial: bool = False,
    pictures: bool = True,
    trust_checkpoint: bool = False,
    kind: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    seed: int = 0,
    target: str | None = None,
    surrogate: tuple[str, str | Path | None] | None = None,
    eot: int = 1,
    metric_size: str = "input",
    mask: Path | None = None,
    checks: str = "quick",
    accept_different: Sequence[str] = (),
) -> Path:
    """Load, attack, report; prints the table and returns the run folder.

    ``kind`` of the weights, ``"raw"`` or ``"ema"``, where the checkpoint holds both; the surrogate's too, where its
    does.

    Raises:
        RunFailed: the model cannot be attacked, or a trust check says that the results are not trustworthy.
    """
    cfg = load_config(config, cfg_options)
    source = source_from_config(cfg, "test", num_images)
    weights = _weights(config, checkpoint)
    majority = target and _stored_majority(Path(work_dir), target, fresh)
    majority = majority or functools.partial(majority_of_config, cfg, source)
    targets = target and build_target(target, source, majority)
    loading = {"trust_checkpoint": trust_checkpoint, "checkpointing": checkpointing, "channels_last": channels_last}
    model = _segmenter(config, weights, cfg, weights=kind, **loading)
    if not trust_checkpoint:  # such a file may run any program, once is enough
        check_class_order(source.class_names, stored_class_names(weights), "the checkpoint")
    attack = functools.partial(
        evaluate,
        model,
        source,
        attacks,
        eps,
        work_dir=work_dir,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        amp=amp,
        fresh=fresh,
        save_adversarial=save_adversarial,
        pictures=pictures,
        attack_defaults=cfg.get("attack_defaults"),
        target=targets,
        surrogate=surrogate and _surrogate(*surrogate, source.class_names, kind, **loading),
        eot=eot,
        metric_size=metric_size,
        mask=mask,
        checks=checks,
        accept_different=accept_different,
        declared=cfg.get("declared"),
        files={"checkpoint_sha256": Path(weights)},
        identity={
            "config": Path(config).stem,
            "dataset": str(cfg.test_dataloader.dataset.type),
            "checkpoint": Path(weights).name,
            "checkpoint_sha256": sha256(weights),
            "checkpoint_trusted": trust_checkpoint,
        },
        about={"options": _options()},
    )
    try:
        summary = attack()
    except (AttackContractError, ModelError) as error:
        _print_trust(Path(work_dir), checks)
        raise RunFailed(f"the run failed: {error}") from error
    if int(os.environ.get("RANK", "0")) == 0:
        console = Console()
        trust = load_trust(Path(work_dir))
        print_table({model.name: summary}, console, {model.name: trust})
        _print_trust(Path(work_dir), checks)
        console.print(RunFolder(work_dir).read_json("run.json")["about"].get("sizes", ""), soft_wrap=True, markup=False)
        _print_accepted(Path(work_dir), console)
        console.print(f"report: {Path(work_dir) / 'report.html'}", soft_wrap=True, markup=False)
        if trust and trust.failed:
            raise RunFailed(f"the results are not trustworthy: {trust.failed}; see {Path(work_dir) / 'report.html'}")
    return Path(work_dir)


def _weights(config: str, checkpoint: str | Path | None) -> str | Path:
    shipped = shipped_model(config)
    weights = checkpoint or (shipped and shipped.weights_path)
    if weights is None:
        raise UserError(f"{config} brings no weights; name a checkpoint for it")
    return weights


def _segmenter(config: str, checkpoint: str | Path | None, cfg: Config | None = None, **loading: Any) -> Segmenter:
    """The model that ``config`` names, read as ``cfg``."""
    cfg = load_config(config) if cfg is None else cfg
    model = load_segmenter(cfg, _weights(config, checkpoint), device=_device(), **loading)
    model.name = Path(config).stem
    return model


def _surrogate(
    config: str, checkpoint: str | Path | None, classes: Sequence[str], kind: str | None, **loading: Any
) -> Segmenter:
    """The model that is attacked instead, of the same classes; a file with one kind of weights has no other to give."""
    weights, trusted = _weights(config, checkpoint), loading["trust_checkpoint"]
    if kind and weights_in(read_checkpoint(weights, trusted), weights).others is None:
        kind = None
    model = _segmenter(config, weights, weights=kind, **loading)
    if not trusted:
        check_class_order(classes, stored_class_names(weights), "the --source checkpoint")
    return model


def _print_trust(work_dir: Path, checks: str) -> None:
    trust = load_trust(work_dir)
    if trust and checks != "off" and int(os.environ.get("RANK", "0")) == 0:
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
