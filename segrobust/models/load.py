"""From a config and a checkpoint, or the name of a shipped model alone, to a segmenter."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from segrobust.core.digest import config_sha256
from segrobust.core.errors import UserError, as_user_error
from segrobust.models.adapters.mmseg import MMSegSegmenter, dataset_identity
from segrobust.models.adapters.papers import PaperSegmenter
from segrobust.models.adapters.torchvision import TorchvisionSegmenter
from segrobust.models.checkpoint.loading import load_state_dict, load_strict
from segrobust.models.mm import import_mmseg, load_config
from segrobust.models.network_io import in_channels_last
from segrobust.models.segmenter import Segmenter
from segrobust.models.shipped import shipped_model

if TYPE_CHECKING:
    from mmengine import Config

LOGGER = logging.getLogger(__name__)
WRAPPED = {kind.__name__: kind for kind in (TorchvisionSegmenter, PaperSegmenter)}


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
        config: a config file, a name from ``segrobust models`` (a shipped one brings its weights), a config or a dict.
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
    model, weights_owner = _build(config)
    model.checkpointing = checkpointing
    model.config_sha256 = config_sha256({name: config.get(name) for name in ("model", "data_preprocessor")})
    if checkpoint is None:
        if weights is not None:
            raise UserError(f"weights={weights!r}: there is no checkpoint to choose from")
        LOGGER.warning("%s: no checkpoint given, the weights are random", model.name)
    else:
        load_strict(weights_owner, load_state_dict(checkpoint, trust_checkpoint, weights), checkpoint)
    model = model.eval().to(target)
    return in_channels_last(model) if channels_last else model


def _build(config: Config) -> tuple[Segmenter, torch.nn.Module]:
    """The segmenter that a config describes, and the module inside whose keys its checkpoints have."""
    import_mmseg()  # the data set's classes are looked up in mmseg's registry
    settings = config.get("model")
    if not isinstance(settings, Mapping) or "type" not in settings:
        raise UserError(f"{config.filename or 'this config'}: expected an entry model=dict(type=...), found none")
    if settings["type"] not in WRAPPED:
        model = MMSegSegmenter.from_config(config)
        return model, model.module
    options = {key: value for key, value in settings.to_dict().items() if key != "type"}
    identity = dataset_identity(config)
    if len(identity.get("class_names", ())) == options.get("num_classes"):
        options = {**identity, **options}
    with as_user_error(lambda error: f"model=dict(type='{settings['type']}', ...): {error}", (TypeError,)):
        model = WRAPPED[settings["type"]](**options)
    return model, model.net


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
