"""Weights that a config names for parts of its model: local files go through the strict reader, nothing is downloaded.

For example::

    backbone = dict(type="ResNet", init_cfg=dict(type="Pretrained", checkpoint="resnet18.safetensors"))
    backbone = dict(type="TIMMBackbone", model_name="resnet18", pretrained=False, checkpoint_path="resnet18.pth")
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from segrobust.core.errors import UserError
from segrobust.models.checkpoint.loading import load_state_dict, load_strict
from segrobust.models.checkpoint.reading import URL

LOGGER = logging.getLogger(__name__)
NOTHING_DOWNLOADED = "nothing is downloaded here"


def fill(part: nn.Module, weights: Mapping[str, Tensor], source: str | os.PathLike) -> None:
    """Load what a file has for ``part``; tensors that only one of the two has are told in the log.

    A classifier's file has a head that a backbone lacks, and a backbone may have layers of its own.

    Raises:
        UserError: no key fits, a shape differs, or a number is not finite.
    """
    own = part.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own}
    if not fitting:
        load_strict(part, weights, source)  # which says why
    load_strict(part, {**own, **fitting}, source)
    missing = [key for key in own if key not in fitting and not key.endswith("num_batches_tracked")]
    if missing:
        LOGGER.warning("%s: %d of %d tensors of %s are not in the file and start from random weights, such as %s",
                       source, len(missing), len(own), type(part).__name__, missing[0])  # fmt: skip
    if left := [key for key in weights if key not in own]:
        LOGGER.info("%s: %d tensors have no place in %s, such as %s", source, len(left), type(part).__name__, left[0])


class StrictPretrained:
    """``init_cfg=dict(type="Pretrained", checkpoint=FILE)``, by the strict reader and told where it does not fit.

    Args:
        checkpoint: safetensors or a file of ``torch.save``.
        prefix: of the part's keys in the file, for instance ``"backbone."``.
        map_location: taken for mmengine's sake; weights are read on the CPU.

    Raises:
        UserError: when called on a module: the file is refused or does not fit.
    """

    def __init__(self, checkpoint: str, prefix: str | None = None, map_location: Any = "cpu") -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix if prefix is None or prefix.endswith(".") else f"{prefix}."

    def __call__(self, module: nn.Module) -> None:
        from mmengine.model import update_init_info

        source = os.path.expanduser(self.checkpoint)
        weights = load_state_dict(source)
        if self.prefix:
            weights = {key.removeprefix(self.prefix): value for key, value in weights.items()
                       if key.startswith(self.prefix)}  # fmt: skip
            if not weights:
                raise UserError(f"{source}: no key starts with the prefix {self.prefix!r}")
        fill(module, weights, source)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=f"Pretrained: load from {self.checkpoint}")


def create_timm_model(
    model_name: str, pretrained: bool = False, checkpoint_path: str | None = "", **options: Any
) -> nn.Module:
    """``timm.create_model`` without its readers: ``checkpoint_path`` is read strictly, nothing is downloaded.

    Raises:
        UserError: weights or a model to be downloaded, a model from a folder, or a file that does not fit.
    """
    import timm

    if ":" in model_name:
        raise UserError(f"{model_name!r}: {NOTHING_DOWNLOADED}, nor are timm's folders read; give the plain model name "
                        "and the weights as checkpoint_path=FILE")  # fmt: skip
    if pretrained and not checkpoint_path:
        raise UserError(f"TIMMBackbone {model_name}: pretrained (which is its default) asks for a download, and "
                        f"{NOTHING_DOWNLOADED}; set pretrained=False or checkpoint_path=FILE")  # fmt: skip
    model = timm.create_model(model_name, pretrained=False, **options)
    if checkpoint_path:
        source = os.path.expanduser(checkpoint_path)
        fill(model, _as_features(load_state_dict(source), model.state_dict()), source)
    return model


def _as_features(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys of a whole timm model as its feature extractor has them (``stem.0`` is ``stem_0`` there)."""
    renamed = {}
    for key, value in weights.items():
        forms = (key, key.replace(".", "_", 1), f"model.{key}")
        renamed[next((form for form in forms if form in own), key)] = value
    return renamed


def without_pretrained(settings: Any, left_out: Collection[str] = ()) -> Any:
    """The same settings of a model, with random weights: for one whose weights all come from a checkpoint.

    Args:
        left_out: names of parts (``"backbone"``, ``"decode_head.conv_seg"``) whose weights come from elsewhere: what
            the whole model, or the entry that such a part lies in, reads from a file stays.
    """
    if isinstance(settings, dict):
        kept = {name.partition(".")[0] for name in left_out}
        clean = {key: value if key in kept else without_pretrained(value) for key, value in settings.items()}
        dropped = {"pretrained": "backbone" not in kept, "checkpoint_path": not kept}  # the first is the backbone's
        clean |= {key: None for key in clean if dropped.get(key)}
        if _is_timm(clean):  # pretrained is on unless told
            clean["pretrained"] = False
        if "init_cfg" in clean and not kept:
            clean["init_cfg"] = _without_files(clean["init_cfg"])
        return clean
    return [without_pretrained(value) for value in settings] if isinstance(settings, list) else settings


def _is_timm(settings: Mapping[str, Any]) -> bool:
    return str(settings.get("type", "")).lower().endswith(("timmbackbone", "timmclassifier"))


def _without_files(init_cfg: Any) -> Any:
    if isinstance(init_cfg, list):
        return [entry for entry in init_cfg if not _reads_file(entry)] or None
    return None if _reads_file(init_cfg) else init_cfg


def _reads_file(entry: Any) -> bool:
    return isinstance(entry, Mapping) and str(entry.get("type", "")).endswith("Pretrained")


def refuse_downloads(node: Any, name: str = "model", off: str = "") -> None:
    """Refuse a model whose weights would be downloaded, or read by others than us, before training with it.

    Args:
        node: the entry ``name`` of a config.
        off: the option that leaves it out; ``name=None`` unless told.

    Raises:
        UserError: names the first such entry and the ways out.
    """
    off = off or f"{name}=None"
    if isinstance(node, Mapping):
        asked = node.get("pretrained", True if _is_timm(node) else None)
        if _is_timm(node) and node.get("checkpoint_path"):
            if not _is_ours(node):
                raise UserError(f"{name}.checkpoint_path: only mmseg's TIMMBackbone reads its file without running "
                                f"code from it; use type='mmseg.TIMMBackbone', got {node['type']!r}")  # fmt: skip
        elif asked is True or (_is_timm(node) and asked):
            raise _download(f"{name}.pretrained", asked, f"{name}.pretrained={False if _is_timm(node) else None}")
        for key, value in node.items():
            refuse_downloads(value, f"{name}.{key}", off if _reads_file(node) else "")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            refuse_downloads(value, f"{name}.{index}", off)
    elif isinstance(node, str) and URL.match(node):
        raise _download(name, node, off)


def _is_ours(settings: Mapping[str, Any]) -> bool:
    return settings["type"] in ("TIMMBackbone", "mmseg.TIMMBackbone") and settings.get("_scope_") in (None, "mmseg")


def _download(entry: str, value: Any, off: str) -> UserError:
    return UserError(f"{entry}={value!r} asks for a download, and {NOTHING_DOWNLOADED}: fetch the weights yourself and "
                     f"name the file in the config, or start from random weights with --cfg-options {off}")  # fmt: skip
