"""From a config and a checkpoint, or the name of a shipped model alone, to a segmenter."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import segrobust.models.adapters.huggingface
import segrobust.models.adapters.papers
import segrobust.models.adapters.python
import segrobust.models.adapters.smp
import segrobust.models.adapters.timm
import segrobust.models.adapters.torchvision  # noqa: F401  (all of them register what configs name)
from segrobust.core.digest import config_sha256
from segrobust.core.errors import UserError, as_user_error
from segrobust.core.palette import default_palette
from segrobust.datasets.classes import made_up
from segrobust.models.adapters.mmseg import MMSegSegmenter, dataset_identity
from segrobust.models.checkpoint.loading import load_state_dict
from segrobust.models.mm import import_mmseg, load_config
from segrobust.models.network_io import in_channels_last
from segrobust.models.registry import SEGMENTERS
from segrobust.models.segmenter import Segmenter
from segrobust.models.shipped import shipped_model

if TYPE_CHECKING:
    from mmengine import Config

LOGGER = logging.getLogger(__name__)


def load_segmenter(
    config: str | os.PathLike | Config | Mapping[str, Any],
    checkpoint: str | os.PathLike | None = None,
    *,
    device: str | torch.device = "auto",
    trust_checkpoint: bool = False,
    weights: str | None = None,
    checkpointing: bool = False,
    channels_last: bool = True,
) -> Segmenter:
    """A segmenter in eval mode from a config and a checkpoint.

    Args:
        config: a config file, a name from ``segrobust models`` (a shipped one brings its weights), a folder in another
            library's format (``hf:FOLDER``, ``smp:FOLDER``, which bring theirs), a config or a dict.
        checkpoint: safetensors or a file of ``torch.save``; without one the weights are random, with a warning.
        device: ``auto`` takes the GPU where there is one.
        trust_checkpoint: read a pickle that can run any program; only for files you made yourself.
        weights: ``"raw"`` or ``"ema"`` where the checkpoint holds averaged weights (EMA) beside the raw ones; None
            takes those in its main entry and says so.
        checkpointing: save memory in attacks, for about half more time; see ``Segmenter``.
        channels_last: keep the weights in that memory format; see ``in_channels_last``.

    Raises:
        UserError: the config, the checkpoint or the device does not serve, told in one line.
    """
    from mmengine import Config

    target = _device(device)
    if isinstance(config, torch.nn.Module):
        raise UserError("config: got a network; Segmenter.wrap(net, num_classes=..., mean=..., std=...) takes those")
    if checkpoint is not None and not isinstance(checkpoint, str | os.PathLike):
        raise UserError(f"checkpoint: expected the path of a file, got a {type(checkpoint).__name__}")
    if isinstance(config, str | os.PathLike):
        if checkpoint is None and (shipped := shipped_model(config)):
            checkpoint = shipped.weights_path
        config = load_config(config)
    elif not isinstance(config, Config):
        config = Config(dict(config))
    model = build_segmenter(config)
    model.checkpointing = checkpointing
    described = {name: config.get(name) for name in ("model", "data_preprocessor")}
    model.config_sha256 = config_sha256(described | ({"files": model.files_sha256} if model.files_sha256 else {}))
    if checkpoint is None:
        if weights is not None:
            raise UserError(f"weights={weights!r}: there is no checkpoint to choose from")
        if not model.brings_weights:
            LOGGER.warning("%s: no checkpoint given, the weights are random", model.name)
    else:
        model.load_weights(load_state_dict(checkpoint, trust_checkpoint, weights, model.envelope), checkpoint)
    model = model.eval().to(target)
    return in_channels_last(model) if channels_last else model


def build_segmenter(config: Config) -> Segmenter:
    """The segmenter that a config describes, with random weights; a type that is not registered is one of mmseg's.

    Raises:
        UserError: the config describes no model, or one that cannot be built.
    """
    import_mmseg()  # the data set's classes are looked up in mmseg's registry
    settings = config.get("model")
    if not isinstance(settings, Mapping) or "type" not in settings:
        raise UserError(f"{config.filename or 'this config'}: expected an entry model=dict(type=...), found none")
    own = own_segmenter(settings)
    if own is None:
        return MMSegSegmenter.from_config(config)
    options = {key: value for key, value in settings.to_dict().items() if key not in ("type", "train_cfg")}
    folder = Path(config.filename).resolve().parent if config.filename else None
    with as_user_error(lambda error: f"model=dict(type={own.__name__!r}, ...): {error}", (TypeError,)):
        model = own.built(options, folder)
    _name_classes(model, dataset_identity(config), options)
    return model


def own_segmenter(settings: Mapping[str, Any]) -> type[Segmenter] | None:
    """The registered class that a config's ``model`` names; None: it is one of mmseg's."""
    kind = settings.get("type")
    return kind if isinstance(kind, type) and issubclass(kind, Segmenter) else SEGMENTERS.get(kind)


def _name_classes(model: Segmenter, data: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """The data set's names and colours, where there is one per class and the model has none of its own."""
    if len(names := data.get("class_names") or ()) != model.num_classes:
        return
    if "class_names" not in options and made_up(model.class_names):
        model.class_names = tuple(names)
    if "palette" not in options and data.get("palette") and model.palette == default_palette(model.num_classes):
        model.palette = [tuple(int(value) for value in colour) for colour in data["palette"]]


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise UserError(f'device: expected "auto", "cpu", "cuda" or "cuda:<number>", got {device!r}') from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {device!r} asked for, but torch sees no GPU; use cpu or auto")
    return target
