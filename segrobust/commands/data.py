"""From a config to its data: what a run attacks, and the majority map of what a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from segrobust.core.digest import config_sha256
from segrobust.core.errors import UserError, as_user_error, first_line
from segrobust.datasets.classes import plain_names
from segrobust.datasets.majority import majority_map, training_labels
from segrobust.datasets.pipeline import check_test_pipeline, step_names, with_own_reading
from segrobust.datasets.source import MMSegSource, Source, spaced_around
from segrobust.datasets.views import with_first_views
from segrobust.models.mm import import_mmseg, load_config

if TYPE_CHECKING:
    from mmengine import Config
    from mmengine.dataset import BaseDataset

SPLITS = ("val", "test")


def source_from_config(
    config: Config | Mapping | str | Path,
    split: str = "test",
    num_images: int | None = None,
    known: Sequence[int] = (),
) -> MMSegSource:
    """The images that ``config.<split>_dataloader`` tests on.

    Args:
        config: an mmengine config, a dict, or a config's path or zoo name.
        split: "test" or "val".
        num_images: so many of them, evenly spaced (all where it is None or more than there are).
        known: indices of images that must be among them, and come first; others are added up to ``num_images``.

    Raises:
        UserError: no such dataloader in the config, no data, a pipeline that augments, or no positive number of images.
    """
    config = _read(config)
    if split not in SPLITS:
        raise UserError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    loader = config.get(f"{split}_dataloader")
    if not loader or not loader.get("dataset"):
        raise UserError(f"the config has no {split} data; set {split}_dataloader = dict(dataset=dict(type=...), ...)")
    settings = with_first_views(loader["dataset"])
    check_test_pipeline(settings)
    dataset = _open(settings)
    if len(dataset) == 0:
        raise UserError(f"the config's {split} data set is empty ({type(dataset).__name__})")
    chosen, steps = spaced_around(len(dataset), num_images, known), step_names(settings)
    return MMSegSource(dataset, chosen, config_sha256(settings), steps)


def majority_of_config(config: Config | Mapping | str | Path, source: Source) -> Tensor:
    """The majority map over the labels of ``config.train_dataloader``, at the size of the first image of ``source``.

    The labels are those on disk with the data set's own relabelling; the pipeline's crops and flips play no part.

    Raises:
        UserError: the config has no training data with labels, or other classes than ``source``.
    """
    settings = (_read(config).get("train_dataloader") or {}).get("dataset")
    if not settings:
        raise UserError("target majority needs training labels; set train_dataloader in the config")
    dataset = _open(settings)
    if plain_names(dataset.metainfo.get("classes") or ()) != plain_names(source.class_names):
        raise UserError("target majority: the config's train_dataloader has other classes than its test data")
    size = tuple(source[0].label.shape)
    return majority_map(training_labels(dataset, source), size, source.num_classes, source.ignore_index)


def _read(config: Config | Mapping | str | Path) -> Config | Mapping:
    """The config, after which mmseg is there and builds nothing unsafe from it."""
    import_mmseg()
    return load_config(config) if isinstance(config, str | Path) else config


def _open(settings: Mapping) -> BaseDataset:
    """The data set that an mmseg config describes, with our reading of its files; UserError: it cannot be built."""
    from mmseg.registry import DATASETS

    own, what = with_own_reading(settings), f"cannot open the data set {settings.get('type')!r}"
    # a data set's constructor may fail in any way: wrong type, wrong argument, no files
    with as_user_error(lambda error: f"{what}: {type(error).__name__}: {first_line(error)}"):
        dataset = DATASETS.build(own)
        dataset.full_init()
    return dataset
