"""Models of segmentation-models-pytorch from a local folder, behind their encoder's preparation of images.

For example::

    model = dict(type="SMPSegmenter", folder="unet-resnet34", class_names=("background", "road"))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from segrobust.core.digest import config_sha256
from segrobust.core.errors import UserError, as_user_error, first_line, unknown_name
from segrobust.models.adapters.folders import files_sha256, library, located, offline, weights_in
from segrobust.models.adapters.timm import timm_statistics
from segrobust.models.adapters.torchvision import IMAGENET_MEAN, IMAGENET_STD
from segrobust.models.registry import register_segmenter
from segrobust.models.saved import CONFIG, saved_config, smp_model
from segrobust.models.segmenter import TOLD, Segmenter, WrappedNet

# What the library's get_preprocessing_params says of encoders, which asks the network for it. Those of timm are asked
# for locally, and those that are not here (dpn, advprop, lite) are the user's to tell.
IMAGENET_ENCODERS = re.compile(
    r"(resnet|resnext|se_resnet|se_resnext|senet|vgg|densenet|mobilenet_v2|mobileone|mit_b|efficientnet-b"
    r"|timm-efficientnet|timm-skresn)"
)
HALF_ENCODERS = re.compile(r"(inceptionresnetv2|inceptionv4|xception)")
HALVES = (0.5, 0.5, 0.5)
RISING = (None, "identity", "sigmoid", "softmax", "softmax2d", "logsoftmax", "tanh")  # they keep the argmax


@register_segmenter
class SMPSegmenter(WrappedNet):
    """A model as ``save_pretrained`` wrote it. An activation at its end is left out: logits come before it.

    Args:
        folder: with ``config.json`` and the weights; relative to the config's folder or the current one. Nothing is
            downloaded.
        options: those of :meth:`Segmenter.wrap`. ``mean``, ``std``, ``channel_order`` and ``input_range`` are the
            encoder's unless told, where its pretrained weights say them; ``size_divisor`` is what the network needs;
            a model with one output has two classes.

    Raises:
        UserError: segmentation-models-pytorch is missing, or the folder does not serve.
    """

    brings_weights = True

    def __init__(self, folder: str, *, config_folder: Path | None = None, **options: Any) -> None:
        library("segmentation_models_pytorch", "segmentation-models-pytorch", "smp")
        path = located(folder, config_folder)
        saved, config = smp_model(path), saved_config(path)
        if options.pop("num_classes", len(saved.class_names)) != len(saved.class_names):
            raise UserError(f"{path}: num_classes: the model has {len(saved.class_names)}; leave it out")
        net = _network(config, path)
        divisor = net.encoder.output_stride if net.requires_divisible_input_shape else 1
        told = {"class_names": saved.class_names, "name": path.name, "size_divisor": divisor}
        told |= _preparation(config, path, options) | options
        super().__init__(net, num_classes=len(saved.class_names), **told)
        self.files_sha256 = files_sha256(path)
        self.load_weights(weights_in(path), path)
        self.config_sha256 = config_sha256({"files": self.files_sha256, **{key: getattr(self, key) for key in TOLD}})

    @classmethod
    def built(cls, options: Mapping[str, Any], folder: Path | None = None) -> Segmenter:
        return cls(**options, config_folder=folder)


def _network(config: Mapping[str, Any], folder: Path) -> nn.Module:
    """The model with random weights; UserError: none of the library's, or not one of RGB images and logits."""
    import segmentation_models_pytorch as smp

    known = {kind.__name__: kind for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    if (name := config["_model_class"]) not in known:
        raise unknown_name("model of segmentation-models-pytorch", str(name), known)
    if config.get("in_channels", 3) != 3:
        raise UserError(f"{folder / CONFIG}: in_channels: expected 3 (RGB), got {config['in_channels']!r}")
    if config.get("activation") not in RISING:
        raise UserError(f"{folder / CONFIG}: activation={config['activation']!r} gives no logits")
    if ":" in str(config.get("encoder_name", "")):
        raise UserError(f"{folder / CONFIG}: encoder_name={config['encoder_name']!r} asks for a download, and nothing "
                        "is downloaded here")  # fmt: skip
    options = {key: value for key, value in config.items() if not key.startswith("_")}
    options |= {"encoder_weights": None, **({"activation": None} if "activation" in options else {})}
    with (
        offline(),
        as_user_error(lambda error: f"{folder / CONFIG}: {type(error).__name__}: {first_line(error)[:200]}"),
    ):
        return known[name](**options)


def _preparation(config: Mapping[str, Any], folder: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """``mean`` and ``std`` of the encoder's pretrained weights; UserError: those are not known and not told."""
    if "mean" in told and "std" in told:
        return {}
    encoder, weights = str(config.get("encoder_name", "resnet34")), config.get("encoder_weights", "imagenet")
    found = None
    if weights and encoder.startswith("tu-"):
        found = timm_statistics(encoder.removeprefix("tu-"))
    elif weights and "advprop" not in str(weights) and HALF_ENCODERS.match(encoder):
        found = (HALVES, HALVES)
    elif weights and "advprop" not in str(weights) and IMAGENET_ENCODERS.match(encoder):
        found = (IMAGENET_MEAN, IMAGENET_STD)
    if found is None:
        raise UserError(f"{folder}: its encoder {encoder} (weights {weights}) does not tell how images are prepared; "
                        "say mean and std (--mean, --std), or None for pixels in [0, 1]")  # fmt: skip
    return {"mean": found[0], "std": found[1]}
