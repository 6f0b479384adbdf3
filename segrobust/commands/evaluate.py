"""What ``segrobust evaluate`` does: from a config and a checkpoint to a finished run folder."""

from __future__ import annotations

import dataclasses
import functools
import json
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
from segrobust.commands.devices import own_device
from segrobust.commands.dry_run import DryRun
from segrobust.commands.evaluation import Origin, evaluate
from segrobust.commands.inputs import Inputs, model_name, weights_of
from segrobust.commands.network import Network, names_network, network_config
from segrobust.commands.parsing import parse_cfg_options
from segrobust.commands.pictures import write_map
from segrobust.commands.results import Results
from segrobust.commands.tallies import wants_counts, with_class_counts
from segrobust.core.agree import agree
from segrobust.core.errors import RunFailed
from segrobust.core.processes import exchange
from segrobust.datasets.classes import check_class_order
from segrobust.datasets.protocols import PROTOCOLS, at_root
from segrobust.datasets.source import MMSegSource
from segrobust.datasets.targets import build_target, selected
from segrobust.models.checkpoint.averaged import weights_in
from segrobust.models.checkpoint.reading import read_checkpoint, sha256, stored_class_names
from segrobust.models.load import load_segmenter
from segrobust.models.mm import config_of, import_mmseg, load_config
from segrobust.models.precision import check_precision
from segrobust.models.saved import names_saved, saved_model
from segrobust.models.segmenter import Segmenter
from segrobust.report.runs import shorten_paths
from segrobust.report.table import print_checks
from segrobust.report.trust import load_trust
from segrobust.runs.folder import RunFolder
from segrobust.runs.settings import Settings

if TYPE_CHECKING:
    from mmengine import Config

FIT_IMAGES = 16  # of the config's val split, at most: what a universal perturbation or patch is fitted on


def evaluate_command(inputs: Inputs, network: Network, settings: Settings) -> None:
    """Load, attack, report; prints the table.

    Raises:
        UserError: more processes than devices, a precision that the device does not have, or what an option names is
            not there.
        RunFailed: the model cannot be attacked, or a trust check says that the results are not trustworthy.
    """
    main = int(os.environ.get("RANK", "0")) == 0
    try:
        results = evaluate_inputs(inputs, network, settings)
    except (AttackContractError, ModelError) as error:
        if main and settings.checks and (trust := load_trust(inputs.work_dir)):
            print_checks(trust, Console())
        raise RunFailed(f"the run failed: {error}") from error
    if settings.dry_run:
        return
    if main and results.trust and results.trust.failed:
        raise RunFailed(
            f"the results are not trustworthy: {results.trust.failed}; see {inputs.work_dir / 'report.html'}"
        )


def evaluate_inputs(inputs: Inputs, network: Network, settings: Settings, quiet: bool = False) -> Results | DryRun:
    """What :func:`evaluate` returns for a model and data that are named.

    Raises:
        UserError: as of :func:`evaluate_command`.
        ModelError, AttackContractError: the model cannot be attacked.
    """
    device = own_device(settings.share_device)
    cfg, source, model, settings, origin = agree(lambda: _loaded(inputs, network, settings, device))
    settings = dataclasses.replace(settings, attack_defaults=_attack_defaults(cfg))
    return evaluate(model, source, work_dir=inputs.work_dir, origin=origin, quiet=quiet, **vars(settings))


def _loaded(
    inputs: Inputs, network: Network, settings: Settings, device: torch.device
) -> tuple[Config, MMSegSource, Segmenter, Settings, Origin]:
    """Config, data, model, the settings with what the config knows of them, and where all this comes from."""
    cfg_options = parse_cfg_options(inputs.cfg_options)
    check_precision(settings.precision, device)
    cfg, folder = _config(inputs, network, cfg_options), RunFolder(inputs.work_dir)
    known = [] if settings.fresh else [one["index"] for one in folder.images().entries if "index" in one]
    source = source_from_config(cfg, "test", inputs.num_images, known)
    weights = weights_of(inputs.config, inputs.checkpoint)
    target = settings.target
    majority = target and _stored_majority(folder, target, settings.fresh)
    majority = majority or functools.partial(majority_of_config, cfg, source)
    target = target and selected(build_target(target, source, majority), settings.where, source)
    model = _segmenter(inputs.config, cfg, weights, inputs, inputs.weights, device)
    if inputs.protocol:
        PROTOCOLS[inputs.protocol].check_fits(model.num_classes, settings.metric_size)
    if inputs.checkpoint is not None and not inputs.trust_checkpoint:  # such a file may run any program, once is enough
        check_class_order(source.class_names, stored_class_names(weights), "the checkpoint")
    settings = dataclasses.replace(
        settings,
        target=target,
        where=None,  # which the target has in it now
        surrogate=inputs.surrogate and _surrogate(inputs, source.class_names, device),
        fit_on=source_from_config(cfg, "val", FIT_IMAGES) if settings.universal else None,
        declared=cfg.get("declared"),
    )
    return cfg, source, model, settings, _origin(inputs, cfg, weights)


def _config(inputs: Inputs, network: Network, cfg_options: dict[str, Any]) -> Config:
    """The config that is named, or the one that a network or a saved model stands for, on the data asked for."""
    import_mmseg()
    if not names_network(inputs.config):
        data = PROTOCOLS[inputs.protocol].loaders(inputs.data_root) if inputs.protocol else {}
        cfg = load_config(inputs.config, cfg_options, data)
        if inputs.data_root and not inputs.protocol:
            at_root(cfg, inputs.data_root)
        return cfg
    return config_of(network_config(inputs, network), inputs.config, cfg_options)


def model_and_data(
    inputs: Inputs, network: Network, num_images: int, known: Sequence[int]
) -> tuple[Segmenter, MMSegSource]:
    """The model that is named and the images that it would be measured on, those with ``known`` indices first."""
    cfg = _config(inputs, network, parse_cfg_options(inputs.cfg_options))
    source = source_from_config(cfg, "test", num_images, known)
    weights = weights_of(inputs.config, inputs.checkpoint)
    return _segmenter(inputs.config, cfg, weights, inputs, inputs.weights, own_device(False)), source


def _attack_defaults(cfg: Config) -> dict[str, Any] | None:
    """The config's, with class counts that name a split counted, by one process for all."""
    defaults = cfg.get("attack_defaults")
    if not defaults or not wants_counts(defaults):
        return defaults
    main = int(os.environ.get("RANK", "0")) == 0
    counted = agree(lambda: json.dumps(with_class_counts(defaults, cfg)) if main else "")
    return json.loads(exchange(counted)[0])


def _origin(inputs: Inputs, cfg: Config, weights: Path) -> Origin:
    identity = {
        "config": model_name(inputs.config),
        "dataset": str(cfg.test_dataloader.dataset.type),
        "checkpoint": weights.name,
        "checkpoint_sha256": sha256(weights),
        "checkpoint_trusted": inputs.trust_checkpoint,
        **({"protocol": inputs.protocol} if inputs.protocol else {}),
    }
    return Origin(identity=identity, about={"options": _options()}, files={"checkpoint_sha256": weights})


def _segmenter(
    config: str, cfg: Config, checkpoint: Path, inputs: Inputs, weights: str | None, device: torch.device
) -> Segmenter:
    """The model that ``config`` names, read as ``cfg``."""
    given = {name: getattr(inputs, name) for name in ("trust_checkpoint", "checkpointing", "channels_last")}
    own = names_saved(config) and checkpoint == saved_model(config).weights  # a folder of its library's brings them
    model = load_segmenter(cfg, None if own else checkpoint, device=str(device), weights=weights, **given)
    model.name = model_name(config)
    return model


def _surrogate(inputs: Inputs, classes: Sequence[str], device: torch.device) -> Segmenter:
    """The model that is attacked instead, of the same classes; a file with one kind of weights has no other to give."""
    checkpoint, kind = weights_of(inputs.surrogate, inputs.surrogate_checkpoint), inputs.weights
    if names_saved(inputs.surrogate):
        kind = None
    if kind and weights_in(read_checkpoint(checkpoint, inputs.trust_checkpoint), checkpoint).others is None:
        kind = None
    model = _segmenter(inputs.surrogate, load_config(inputs.surrogate), checkpoint, inputs, kind, device)
    if inputs.surrogate_checkpoint is not None and not inputs.trust_checkpoint:
        check_class_order(classes, stored_class_names(checkpoint), "the --surrogate checkpoint")
    return model


def _stored_majority(folder: RunFolder, target: str, fresh: bool) -> Path | None:
    """The majority map of an earlier start of the same run: reading all training labels once is enough."""
    file = folder.path / "target.png"
    if fresh or target != "majority" or not file.is_file():
        return None
    return file if (folder.identity().get("target") or {}).get("spec") == target else None


def targets_command(config: str, out: Path, cfg_options: dict[str, Any] | None = None) -> list[Path]:
    """Write the majority map of a config's training labels as ids, and beside it in the classes' colours."""
    cfg = load_config(config, cfg_options)
    source = source_from_config(cfg, "test", 1)
    return write_map(out, majority_of_config(cfg, source), source)


def _options() -> list[str]:
    """The words of the command line, without the folders of this machine in them."""
    return [shorten_paths(word) for word in sys.argv[1:]]
