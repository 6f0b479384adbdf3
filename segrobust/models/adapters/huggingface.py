"""Segmentation models of Hugging Face transformers from a local folder, with the folder's own preparation of images.

For example::

    model = dict(type="HuggingFaceSegmenter", folder="segformer-b0-finetuned-ade-512-512")
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segrobust.core.digest import config_sha256
from segrobust.core.errors import UserError, as_user_error, first_line, unknown_name
from segrobust.models.adapters.folders import files_sha256, library, located, offline, weights_in
from segrobust.models.checkpoint.loading import not_finite
from segrobust.models.network_io import in_network_type
from segrobust.models.registry import register_segmenter
from segrobust.models.saved import PROCESSOR, huggingface_model, saved_config
from segrobust.models.segmenter import Segmenter

LOGGER = logging.getLogger(__name__)
QUERIES = frozenset({"eomt", "eomt_dinov3", "mask2former", "maskformer"})  # masks with a class each
# entries of config.json that name what would be fetched, or what runs beside the library
LEFT_OUT = frozenset({"auto_map", "_attn_implementation", "attn_implementation", "dtype", "torch_dtype"})


@register_segmenter
class HuggingFaceSegmenter(Segmenter):
    """``XForSemanticSegmentation`` or a model of masks and classes (Mask2Former, MaskFormer, EoMT), as transformers
    predicts with it: the folder's image processor, the network, the processor's ``post_process_semantic_segmentation``.

    Images are resized, split and padded as ``preprocessor_config.json`` says, in floating point: the library rounds
    resized pixels to 8 bits, which has no gradient. Masks and classes give a score for each class, of which the logits
    are the logarithms: the same argmax, and a softmax that is the scores' share.

    Args:
        folder: as ``save_pretrained`` wrote it (``config.json``, ``preprocessor_config.json``, weights as safetensors
            or plain tensors); relative to the config's folder or the current one. Nothing is downloaded and no code
            that a folder names is run.
        resize: whether images are resized; None leaves it to the folder.
        options: ``class_names``, ``palette``, ``ignore_index`` and ``name``; names are the folder's unless told.

    Raises:
        UserError: transformers is missing, or the folder does not serve.
    """

    brings_weights = True

    def __init__(
        self, folder: str, *, resize: bool | None = None, config_folder: Path | None = None, **options: Any
    ) -> None:
        transformers = library("transformers", "transformers", "huggingface")
        path = located(folder, config_folder)
        saved = huggingface_model(path)
        if options.pop("num_classes", len(saved.class_names)) != len(saved.class_names):
            raise UserError(f"{path}: num_classes: the model has {len(saved.class_names)}; leave it out")
        kind, config = _class_of(transformers, path), _config(transformers, path)
        ignored = getattr(config, "semantic_loss_ignore_index", 255)
        told = {"class_names": saved.class_names, "name": path.name, "ignore_index": ignored, **options}
        super().__init__(num_classes=len(saved.class_names), **told)
        self.net = _network(kind, config, weights_in(path), path)
        self.processor = _processor(transformers, path)
        if resize is not None:
            self.processor.do_resize = bool(resize)
        factor = self.processor.rescale_factor if self.processor.do_rescale else 1
        for name, value in (("mean", 0.0), ("std", 1.0)):
            values = getattr(self.processor, f"image_{name}", None) if self.processor.do_normalize else None
            column = torch.as_tensor(value if values is None else values, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, column * (1.0 / factor), persistent=False)
        self.processor.rescale_and_normalize = self._normalised
        self.by_queries, self.reduce_labels = config.model_type in QUERIES, saved.reduce_labels
        self._inputs = frozenset(inspect.signature(self.net.forward).parameters)
        self.files_sha256 = files_sha256(path)
        self.config_sha256 = config_sha256({"files": self.files_sha256, "resize": resize})
        if self.reduce_labels:
            LOGGER.info("%s: class 0 is what label 1 was in training, and label 0 was void; where the labels are such, "
                        "the data set needs reduce_zero_label=True", self.name)  # fmt: skip

    @classmethod
    def built(cls, options: Mapping[str, Any], folder: Path | None = None) -> Segmenter:
        return cls(**options, config_folder=folder)

    @property
    def network(self) -> nn.Module:
        return self.net

    def load_weights(self, weights: Mapping[str, Tensor], source: Any) -> None:
        fitted = _network(type(self.net), self.net.config, dict(weights), source)
        self.net.load_state_dict(fitted.state_dict())  # in place: an optimizer may hold these parameters

    def _normalised(self, images: Tensor, *_: Any, **__: Any) -> Tensor:
        """In the place of the processor's own, which rounds to float32 and waits for the device."""
        return (images - self.mean.to(images)) / self.std.to(images)

    def logits(self, images: Tensor) -> Tensor:
        pixels = list((images * 255).unbind())
        given = self.processor(images=pixels, input_data_format="channels_first", return_tensors="pt")
        given["pixel_values"] = in_network_type(self.net, given["pixel_values"])
        outputs = self.net(**{name: value for name, value in given.items() if name in self._inputs})
        sizes = [tuple(images.shape[-2:])] * len(images)
        found = self.processor.post_process_semantic_segmentation(
            outputs, target_sizes=sizes, return_segmentation_scores=True
        )
        scores = torch.stack([one["segmentation_scores"] for one in found])
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log() if self.by_queries else scores


def _config(transformers: Any, folder: Path) -> Any:
    """The library's object of ``config.json``, without what would fetch or run anything."""
    content = saved_config(folder)
    if "quantization_config" in content:
        raise UserError(
            f"{folder}: quantised weights have no gradient here; save the model without quantization_config"
        )
    with offline(), _quiet(transformers), _told(folder, "config.json"):
        return transformers.CONFIG_MAPPING[content["model_type"]].from_dict(_local(content))


def _local(entry: Any) -> Any:
    """The same entries, in which no part asks for weights of its own or for code."""
    if isinstance(entry, list):
        return [_local(one) for one in entry]
    if not isinstance(entry, dict):
        return entry
    kept = {key: _local(value) for key, value in entry.items() if key not in LEFT_OUT}
    return kept | ({"use_pretrained_backbone": False} if kept.get("use_pretrained_backbone") else {})


def _class_of(transformers: Any, folder: Path) -> type[nn.Module]:
    """The class of the model; UserError: its type is not one of those that segment, or the weights are of another."""
    content, tables = saved_config(folder), transformers.models.auto.modeling_auto
    known = {**tables.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES}
    known |= {kind: name for kind, name in tables.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES.items()
              if kind in QUERIES}  # fmt: skip
    if (named := str(content["model_type"])) not in known:
        error = unknown_name("segmenter of transformers", named, known)
        raise UserError(f"{folder}: {error}")
    saved = (content.get("architectures") or [known[named]])[0]
    if saved != known[named]:
        raise UserError(f"{folder}: the weights of a {saved}; expected those of a {known[named]}")
    return getattr(transformers, known[named])


def _network(kind: type[nn.Module], config: Any, weights: dict[str, Tensor], source: Any) -> nn.Module:
    """The model with these weights, under the names that its library has or had for them; all must fit."""
    import transformers

    if broken := not_finite(weights):
        raise UserError(f"{source}: {broken[0]} holds NaN or infinity; the training that wrote it diverged")
    with offline(), _quiet(transformers), _told(source, "weights"):
        net, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    for what, words in (("missing_keys", "the file lacks"), ("unexpected_keys", "the model has no place for")):
        if keys := sorted(report[what]):
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(f"{source}: the weights do not fit {config.model_type}: {words} {keys[0]}{more}")
    return net.eval()


def _processor(transformers: Any, folder: Path) -> Any:
    """The folder's image processor, of the kind that computes with tensors."""
    with offline(), _quiet(transformers), _told(folder, PROCESSOR):
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="torchvision"
        )
    if not hasattr(processor, "post_process_semantic_segmentation") or processor.backend != "torchvision":
        raise UserError(f"{folder}: {type(processor).__name__} gives no semantic segmentation with tensors; "
                        f"name another image_processor_type in {PROCESSOR}")  # fmt: skip
    return processor


def _told(source: Any, what: str) -> Any:
    return as_user_error(lambda error: f"{source}: {what}: {type(error).__name__}: {first_line(error)[:200]}")


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the library's report of all it reads, and without its progress bars."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
