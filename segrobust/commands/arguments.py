"""What a caller of ``evaluate`` may give: what is no model or data set is told in one line."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from segrobust.attacks.inputs import as_tensor, check_range
from segrobust.core.errors import UserError
from segrobust.datasets.classes import check_class_order
from segrobust.datasets.labels import check_ids, check_size
from segrobust.datasets.source import MMSegSource, Sample, Source
from segrobust.models.segmenter import Segmenter
from segrobust.runs.settings import Settings

SOURCE = ("num_classes", "class_names", "palette", "ignore_index", "__len__", "__getitem__")


def check_segmenter(what: str, model: Any) -> None:
    """Refuse what is no Segmenter, and say how to make one of it."""
    if not isinstance(model, Segmenter):
        raise UserError(
            f"{what}: expected a Segmenter, got {type(model).__name__}; Segmenter.wrap(net, num_classes=..., mean=..., "
            "std=...) makes one of a network (or give evaluate num_classes=... beside the network), "
            "load_segmenter(config, checkpoint) of files"
        )
    if next(model.parameters(), None) is None:
        raise UserError(f"{what}: {model.name} has no parameters, so its device is not known; make a weight of it one")


def check_fit(model: Segmenter, dataset: Source, surrogate: Segmenter | None) -> None:
    """Refuse a data set, a model and a surrogate that have not the same classes."""
    if model.num_classes != dataset.num_classes:
        hint = "; one channel tells background and object: name both classes" if dataset.num_classes == 1 else ""
        raise UserError(f"the model has {model.num_classes} classes, the data set {dataset.num_classes}{hint}")
    check_class_order(dataset.class_names, model.class_names, "the model")
    if surrogate is not None:
        check_segmenter("surrogate", surrogate)
        if surrogate.num_classes != model.num_classes:
            raise UserError(
                f"expected a surrogate with the {model.num_classes} classes of the evaluated model, got "
                f"{surrogate.num_classes} ({surrogate.name})"
            )
        check_class_order(dataset.class_names, surrogate.class_names, "the surrogate")


def checked_source(dataset: Any) -> Source:
    """The data set, whose samples are checked when they are read; one of mmseg's is read by its pipeline.

    Raises:
        UserError: it lacks a member of ``segrobust.datasets.source.Source``.
    """
    if hasattr(dataset, "get_data_info") and hasattr(dataset, "pipeline"):
        return MMSegSource.of(dataset)
    if missing := [name for name in SOURCE if not hasattr(dataset, name)]:
        raise UserError(
            f"dataset: expected a Source, got {type(dataset).__name__}, which lacks {', '.join(missing)}; "
            "source_from_config(config) of segrobust makes one of a config; any object with those "
            "members whose dataset[i] is a Sample(image, label, name) will do, and so will pairs (image, label)"
        )
    return dataset if isinstance(dataset, MMSegSource) else CheckedSource(dataset)


class CheckedSource:
    """A user's own source: arrays and other types of numbers become what is computed with, or are refused."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of a copy that has nothing yet
            raise AttributeError(name)
        found = getattr(self._source, name)  # a source may lack what is checked here
        return {"original_label": self._original_label, "file_size": self._file_size}.get(name, found)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        """Raises UserError: no sample, or an image or a label of it that cannot be read in one way alone."""
        sample = self._source[index]
        if any(not hasattr(sample, name) for name in ("image", "label", "name")):
            raise UserError(
                f"dataset[{index}]: expected a Sample(image, label, name) of segrobust.datasets.source, got a "
                f"{type(sample).__name__}"
            )
        image = as_tensor(f"image of dataset[{index}]", sample.image)
        if not image.is_floating_point() or image.ndim != 3 or image.shape[0] != 3:
            raise UserError(
                f"image of dataset[{index}]: expected float [3, H, W], RGB in [0, 1], got {image.dtype} "
                f"{tuple(image.shape)}"
            )
        check_range(image, f"image of dataset[{index}]")
        label = self._class_ids(sample.label, tuple(image.shape[1:]), f"label of dataset[{index}]")
        return Sample(image.float().clamp(0, 1).cpu(), label, str(sample.name))

    def _original_label(self, index: int) -> Tensor:
        """The source's own at the size of its file, int64 [H, W]; UserError: as for the labels of samples."""
        given = self._source.original_label(index)
        return self._class_ids(given, self._file_size(index), f"original_label({index}) of the dataset")

    def _file_size(self, index: int) -> tuple[int, int]:
        """The source's own; UserError: no two whole numbers."""
        given = self._source.file_size(index)
        try:
            height, width = map(operator.index, given)
        except (TypeError, ValueError):
            raise UserError(
                f"file_size({index}) of the dataset: expected two whole numbers (height, width), got {given!r}"
            ) from None
        return height, width

    def _class_ids(self, given: Any, size: tuple[int, int], what: str) -> Tensor:
        """A label of the source as int64 [H, W], where all of it is classes or void and it has the size."""
        label = as_tensor(what, given)
        if label.ndim != 2 or label.is_floating_point():
            raise UserError(f"{what}: expected class ids [H, W], got {label.dtype} {tuple(label.shape)}")
        label, name = label.long().cpu(), what.removeprefix("label ")
        check_size(label.numpy(), size, name)
        check_ids(label.numpy(), self._source.num_classes, self._source.ignore_index, name)
        return label


def check_in_memory(settings: Settings) -> None:
    """Refuse what needs a folder that stays."""
    if settings.save_adversarial:
        raise UserError("save_adversarial: needs a work_dir to save to")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("work_dir: several processes need one, which all of them see")


def check_work_dir(work_dir: Any) -> None:
    """Refuse what is no path of a folder."""
    if not isinstance(work_dir, str | os.PathLike) or not str(work_dir):
        raise UserError(f'work_dir: expected a folder such as "work_dirs/mine", got {work_dir!r}')
    if Path(work_dir).is_file():
        raise UserError(f"work_dir: expected a folder, got the file {str(work_dir)!r}")
