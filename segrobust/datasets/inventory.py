"""Which files a config's data set names, which of them are there, and which labels lie beside without an image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segrobust.core.errors import as_user_error, first_line
from segrobust.datasets.pipeline import type_name, with_own_reading


@dataclass(frozen=True)
class Inventory:
    """The files of one data set of a config.

    missing: folders and lists that are named and not there; nothing else is known then.
    pairs: images and labels that are there, in the data set's order.
    absent: images of its list that are not there; unlabelled: images without their label; orphans: the labels in its
        folder of labels that have no image in its folder of images.
    info: what its labels' ids mean: mmseg's ``label_map`` and ``reduce_zero_label``.
    """

    settings: Mapping[str, Any]
    images: Path | None = None
    labels: Path | None = None
    names: Path | None = None
    missing: tuple[Path, ...] = ()
    pairs: tuple[tuple[Path, Path], ...] = ()
    absent: tuple[Path, ...] = ()
    unlabelled: tuple[Path, ...] = ()
    orphans: tuple[Path, ...] = ()
    class_names: tuple[str, ...] = ()
    ignore_index: int = 255
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The name of its type."""
        return type_name(self.settings)

    @property
    def place(self) -> str:
        """What tells it from other data sets whatever becomes of its files."""
        return "\n".join(str(one and one.absolute()) for one in (self.images, self.labels, self.names))


def data_sets(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The settings of every data set that one names: itself, or those that it wraps."""
    inner = settings.get("datasets") or settings.get("dataset")
    if inner is None:
        yield settings
        return
    for one in [inner] if isinstance(inner, Mapping) else inner:
        yield from data_sets(one)


def take_inventory(settings: Mapping[str, Any]) -> Inventory:
    """Look for the files of a data set that wraps no others; mmseg must have been imported.

    Raises:
        UserError: no such type of data set, or it cannot be built for another reason than missing files.
    """
    from mmseg.registry import DATASETS

    from segrobust.datasets.mm import FolderDataset

    places = _places(settings, settings.get("data_root"))
    if missing := _not_there(places):
        return Inventory(settings, *places, missing=missing)
    what = f"cannot open the data set {settings.get('type')!r}"
    # a data set's constructor may fail in any way
    with as_user_error(lambda error: f"{what}: {type(error).__name__}: {first_line(error)}"):
        dataset = DATASETS.build({**with_own_reading(settings), "lazy_init": True})
        places = _places(vars(dataset), None)
        if missing := _not_there(places):
            return Inventory(settings, *places, missing=missing)
        if isinstance(dataset, FolderDataset):
            dataset.complete = False
        dataset.full_init()
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return _sorted(settings, dataset, infos, places)


def _places(settings: Mapping[str, Any], root: Any) -> tuple[Path | None, Path | None, Path | None]:
    """The folders of images and of labels and the list of names, where they are told."""
    prefix = settings.get("data_prefix") or {}
    told = (prefix.get("img_path"), prefix.get("seg_map_path"), settings.get("ann_file"))
    return tuple(Path(root or "") / one if one else None for one in told)


def _not_there(places: tuple[Path | None, Path | None, Path | None]) -> tuple[Path, ...]:
    *folders, names = places
    missing = [folder for folder in folders if folder and not folder.is_dir()]
    return (*missing, *([names] if names and not names.is_file() else []))


def _sorted(settings: Mapping[str, Any], dataset: Any, infos: list[dict], places: tuple) -> Inventory:
    pairs, absent, unlabelled = [], [], []
    for info in infos:
        image, label = Path(info["img_path"]), Path(info.get("seg_map_path") or "")
        if not image.is_file():
            absent.append(image)
        elif not label.is_file():
            unlabelled.append(image)
        else:
            pairs.append((image, label))
    first = infos[0] if infos else {}
    return Inventory(
        settings,
        *places,
        pairs=tuple(pairs),
        absent=tuple(absent),
        unlabelled=tuple(unlabelled),
        orphans=tuple(_orphans(dataset, *places[:2])),
        class_names=tuple(dataset.metainfo.get("classes") or ()),
        ignore_index=getattr(dataset, "ignore_index", 255),
        info={key: first.get(key) for key in ("label_map", "reduce_zero_label")},
    )


def _orphans(dataset: Any, images: Path | None, labels: Path | None) -> Iterator[Path]:
    """Labels in the folder of labels whose name no image in the folder of images has."""
    from segrobust.datasets.mm import IMAGE_SUFFIXES, FolderDataset

    ending = getattr(dataset, "seg_map_suffix", None)
    if images is None or labels is None or images == labels or ending is None:
        return
    endings = IMAGE_SUFFIXES if isinstance(dataset, FolderDataset) else (dataset.img_suffix,)
    lower = tuple(one.lower() for one in endings)
    named = ((file, len(one)) for file in _files(images) for one in lower if file.name.lower().endswith(one))
    known = {_stem(file, images, length) for file, length in named}
    for file in sorted(_files(labels)):
        if file.name.endswith(ending) and _stem(file, labels, len(ending)) not in known:
            yield file


def _files(folder: Path) -> Iterator[Path]:
    """All below a folder, through links to folders too, as mmseg sees them."""
    for inside, _, names in os.walk(folder, followlinks=True):
        yield from (Path(inside, name) for name in names if not name.startswith("."))


def _stem(file: Path, folder: Path, ending: int) -> str:
    return file.relative_to(folder).as_posix()[:-ending]
