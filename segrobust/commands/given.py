"""The model and the data that a caller of ``evaluate`` has, made a Segmenter and a Source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from segrobust.commands.data import source_from_config
from segrobust.commands.network import Network
from segrobust.core.errors import UserError
from segrobust.datasets.folders import CLASSES_FILE, folder_data
from segrobust.datasets.pairs import Pairs, pairs_in
from segrobust.models.segmenter import Segmenter


def as_segmenter(model: Any, network: Network) -> Any:
    """A network with what was told of it as a Segmenter; anything else as it is.

    Raises:
        UserError: options of a network beside what is no network.
    """
    given = network.given()
    if isinstance(model, nn.Module) and not isinstance(model, Segmenter) and "num_classes" in given:
        return Segmenter.wrap(model, **given)
    if given and isinstance(model, Segmenter):
        raise UserError(f"{next(iter(given))}: the model is a Segmenter and has its own; leave it out")
    return model


def as_source(dataset: Any, model: Segmenter) -> Any:
    """A folder, pairs or a loader of pairs as a Source with the classes of the model; anything else as it is.

    Raises:
        UserError: no such folder, no ``images`` and ``labels`` in it, or a loader that shuffles.
    """
    if isinstance(dataset, str | os.PathLike):
        folder = Path(dataset)
        names = () if (folder / CLASSES_FILE).is_file() else model.class_names
        told = {"ignore_index": model.ignore_index, "reduce_labels": model.reduce_labels}
        return source_from_config(folder_data(folder, class_names=names, **told))
    if hasattr(dataset, "num_classes") or hasattr(dataset, "get_data_info"):
        return dataset
    pairs = pairs_in(dataset)
    return dataset if pairs is None else Pairs(pairs, model.class_names, model.palette, model.ignore_index)
