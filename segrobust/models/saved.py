"""Models that lie in a folder as their library saves them (``save_pretrained``), told by what is in ``config.json``.

    hf:FOLDER       Hugging Face transformers
    smp:FOLDER      segmentation-models-pytorch

Imports no torch, so that the command line can refuse a wrong folder at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError
from segrobust.core.files import read_json

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
# the weights in the order in which the libraries look for them; an index names the files of a model in several
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_DEFAULT_LABELS = 2  # of transformers, which leaves them out of the file then


@dataclass(frozen=True)
class SavedModel:
    """What a folder says of its model.

    Args:
        segmenter: the name of the adapter that loads it.
        class_names: numbered ones where it names none.
        prepares: it says all of how images are prepared.
        reduce_labels: it was trained on labels whose 0 is void, and whose others are one more than its classes.
    """

    segmenter: str
    folder: Path
    class_names: tuple[str, ...]
    prepares: bool = False
    reduce_labels: bool = False

    @property
    def weights(self) -> Path:
        """The file with the weights, or the index of several."""
        return weights_file(self.folder)


def names_saved(text: str) -> bool:
    """Whether it has the form of ``hf:FOLDER`` or ``smp:FOLDER``."""
    return re.match(f"({'|'.join(_READERS)}):(?!:)", str(text)) is not None


def saved_model(text: str) -> SavedModel:
    """What ``hf:FOLDER`` or ``smp:FOLDER`` names; UserError: no such folder, or not one of that library."""
    prefix, _, folder = str(text).partition(":")
    return _READERS[prefix](Path(folder).expanduser())


def saved_config(folder: Path) -> dict[str, Any]:
    """The content of ``config.json``; UserError: no such folder or file, or no JSON object in it."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, and nothing is downloaded; give the one that save_pretrained wrote")
    if not (folder / CONFIG).is_file():
        there = ", ".join(sorted(child.name for child in folder.iterdir())[:6]) or "nothing"
        raise UserError(f"{folder}: expected {CONFIG} and weights, as save_pretrained writes them; found {there}")
    return read_object(folder / CONFIG)


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; UserError: something else."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return content


def weights_file(folder: Path) -> Path:
    """The first of :data:`WEIGHTS` that is there; UserError: none is."""
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{folder}: no weights in it; expected {WEIGHTS[0]} or {WEIGHTS[2]} (or {WEIGHTS[1]})")
    return found


def huggingface_model(folder: Path) -> SavedModel:
    """Of transformers: names from ``id2label``, ``do_reduce_labels`` (or ``reduce_labels``) from its preprocessing."""
    config = saved_config(folder)
    if "model_type" not in config:
        hint = "; is it one of segmentation-models-pytorch (smp:FOLDER)?" if "_model_class" in config else ""
        raise UserError(f"{folder}: {CONFIG} has no model_type, so it is no folder of transformers{hint}")
    if not (folder / PROCESSOR).is_file():
        raise UserError(f"{folder}: {PROCESSOR} is missing, which says how images are prepared (the library's "
                        "AutoImageProcessor.save_pretrained writes it)")  # fmt: skip
    labels = config.get("id2label") or {}
    names = [str(labels.get(str(index), "")) for index in range(len(labels) or _DEFAULT_LABELS)]
    processor = read_object(folder / PROCESSOR)
    reduces = bool(processor.get("do_reduce_labels", processor.get("reduce_labels", False)))
    return SavedModel("HuggingFaceSegmenter", folder, _told_names(names), True, reduces)


def smp_model(folder: Path) -> SavedModel:
    """Of segmentation-models-pytorch: a model with one output has two classes."""
    config = saved_config(folder)
    if "_model_class" not in config:
        hint = "; is it one of transformers (hf:FOLDER)?" if "model_type" in config else ""
        raise UserError(f"{folder}: {CONFIG} has no _model_class, so segmentation-models-pytorch did not save it{hint}")
    outputs = config.get("classes", 1)
    if isinstance(outputs, bool) or not isinstance(outputs, int) or outputs < 1:
        raise UserError(f"{folder / CONFIG}: classes: expected a whole number of at least 1, got {outputs!r}")
    return SavedModel("SMPSegmenter", folder, _told_names([""] * max(outputs, 2)))


_READERS: Mapping[str, Callable[[Path], SavedModel]] = {"hf": huggingface_model, "smp": smp_model}


def _told_names(names: list[str]) -> tuple[str, ...]:
    """The names, or numbered ones where the library made them up or one is missing."""
    if all(name and not re.fullmatch(r"LABEL_\d+", name) for name in names):
        return tuple(names)
    return tuple(f"class_{index}" for index in range(len(names)))
