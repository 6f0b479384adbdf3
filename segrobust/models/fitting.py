"""Which models some weights fit, by keys and shapes: shipped, published and torchvision's ones, and those named."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segrobust.core.own_code import names_function
from segrobust.models.adapters.python import PythonSegmenter
from segrobust.models.checkpoint.loading import compared, load_state_dict, misfit_of
from segrobust.models.checkpoint.naming import OF_TRAINERS, renamed, without_wrappers
from segrobust.models.checkpoint.reading import read_checkpoint, sha256
from segrobust.models.load import build_segmenter
from segrobust.models.mm import load_config
from segrobust.models.papers.architectures import build_network
from segrobust.models.published import PUBLISHED
from segrobust.models.shipped import shipped_model, zoo

SHIPPED, PUBLISHED_BY_OTHERS, TORCHVISION, GIVEN = "shipped", "published", "torchvision", "given"
OF_TORCHVISION = ("classifier.4.weight", "classifier.low_classifier.weight")  # their rows are the classes


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How some weights and a model go together.

    match: keys of one shape in both; missing: the model's alone; unexpected: the file's alone; other_shape: keys of
    both with another shape or kind of numbers. misfit: what the strict loader would say; empty where it takes them.
    hint: what tells, beside keys and shapes, that the file is this model's.
    """

    name: str
    kind: str
    match: int
    missing: int
    unexpected: int
    other_shape: int
    misfit: str
    hint: str = ""

    @property
    def fits(self) -> bool:
        return not self.misfit

    @property
    def order(self) -> tuple[Any, ...]:
        """The best first: of those that are refused, the one that shares most of all keys of both."""
        keys = self.match + self.missing + self.unexpected + self.other_shape
        return not self.fits, not self.hint, -self.match / max(keys, 1)


def fit_of(name: str, kind: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor], hint: str = "") -> Fit:
    """Compare weights with a model's state dict as the strict loader would, without loading."""
    given = renamed(own, weights)
    missing, unexpected, shapes, kinds = compared(own, given)
    other = {*shapes, *kinds}
    return Fit(
        name=name,
        kind=kind,
        match=len(given) - len(unexpected) - len(other),
        missing=len(missing),
        unexpected=len(unexpected),
        other_shape=len(other),
        misfit=misfit_of(own, given),
        hint=hint,
    )


def known_fits(path: str | os.PathLike, weights: Mapping[str, Tensor], digest: str) -> list[Fit]:
    """Of the shipped, the published and torchvision's models those that share a key and its shape with the file.

    Args:
        path: whose name may be that of a published file.
        digest: the file's sha256, which may be that of a shipped one.
    """
    found = []
    for entry in zoo().values():
        hint = "the same file" if digest == sha256(entry.weights_path) else ""
        found.append(fit_of(entry.name, SHIPPED, read_checkpoint(entry.weights_path), weights, hint))
    for one in PUBLISHED.values():
        hint = "the name of its file" if one.file and Path(one.file).name == Path(path).name else ""
        own = _layout(one.arch, one.data.num_classes)
        found.append(fit_of(one.name, PUBLISHED_BY_OTHERS, own, weights, hint))
    found += _torchvision_fits(weights)
    return best_first(fit for fit in found if fit.match)


def _torchvision_fits(weights: Mapping[str, Tensor]) -> list[Fit]:
    """Of torchvision's segmentation models with the file's number of classes, under what a config calls them."""
    bare = without_wrappers(weights, OF_TRAINERS)
    last = next((bare[key] for key in OF_TORCHVISION if key in bare), None)
    if last is None or not last.ndim:
        return []
    from torchvision.models import get_model, list_models, segmentation

    classes, found = last.shape[0], []
    auxiliary = any(key.startswith("aux_classifier.") for key in bare)
    for arch in list_models(module=segmentation):
        aux = {"aux_loss": True} if auxiliary and not arch.startswith("lraspp") else {}
        with torch.device("meta"):
            net = get_model(arch, weights=None, weights_backbone=None, num_classes=classes, **aux)
        options = "".join(f", {key}={value}" for key, value in {"num_classes": classes, **aux}.items())
        name = f'model = dict(type="TorchvisionSegmenter", arch="{arch}"{options})'
        found.append(fit_of(name, TORCHVISION, _state(net), weights))
    return found


def given_fit(model: str, path: str | os.PathLike, weights: Mapping[str, Tensor], trust: bool = False) -> Fit:
    """The same of a model that is named: a config, a name of a model, or ``FILE.py:FUNCTION``, which runs.

    Raises:
        UserError: the model cannot be built, or its config names an entry that the file lacks.
    """
    if names_function(model):
        built = PythonSegmenter(model, num_classes=2)  # classes add no weights
    elif entry := shipped_model(model):
        return fit_of(model, GIVEN, read_checkpoint(entry.weights_path), weights)
    else:
        built = build_segmenter(load_config(model))
    if built.envelope is not None:
        weights = load_state_dict(path, trust, envelope=built.envelope)
    return fit_of(model, GIVEN, _state(built.network), weights)


def best_first(fits: Iterable[Fit]) -> list[Fit]:
    return sorted(fits, key=lambda fit: fit.order)


def _layout(arch: str, num_classes: int) -> dict[str, Tensor]:
    """The state dict of a paper's network, without memory for its numbers."""
    with torch.device("meta"):
        return _state(build_network(arch, num_classes))


def _state(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())
