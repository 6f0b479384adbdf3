"""Where the data sets of the protocols lie: their official archives, or a plain folder of images and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError
from segrobust.datasets import layouts
from segrobust.datasets.folders import folder_data
from segrobust.datasets.pipeline import metainfo_of


@dataclass(frozen=True, kw_only=True)
class MeasuredData:
    """One data set, measured on ``val``; what is fitted, or is a majority, comes from ``train``.

    Args:
        archive: as its publishers' archives unpack.
        kind: mmseg's type of data set.
        root: where mmseg's configs look for it.
        splits: where images and labels of ``train`` and ``val`` lie, in mmseg's words; the first image folder of
            ``val`` is what an archive is known by.
        reduce_zero_label: whether 0 in the label files is void, and 1 the first class.
        plain: whether labels of a plain folder, which are class ids already, can be told from the archive's.
    """

    archive: layouts.Layout
    kind: str
    root: str
    splits: Mapping[str, Mapping[str, Any]]
    reduce_zero_label: bool | None = None
    plain: bool = True

    def loaders(self, root: Path | None, pipeline: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A config's ``test_``, ``val_`` and ``train_dataloader`` under one pipeline; needs mmseg imported.

        Raises:
            UserError: neither the archive nor a plain folder is at ``root``.
        """
        if root is not None and (root / "images").is_dir() and (root / "labels").is_dir():
            return self._plain(root, pipeline)
        known = {"reduce_zero_label": self.reduce_zero_label} if self.reduce_zero_label is not None else {}
        place = self.root if root is None else str(self._archive(root))

        def loader(split: str) -> dict[str, Any]:
            kind = self._kind(Path(place), split)
            data = {"type": kind, "data_root": place, "test_mode": True, **self.splits[split], **known}
            return {"dataset": {**data, "pipeline": list(pipeline)}}

        uses = {"test": "val", "val": "train", "train": "train"}
        return {f"{use}_dataloader": loader(split) for use, split in uses.items()}

    def _plain(self, root: Path, pipeline: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A folder's own classes must be these; its void is 255."""
        if not self.plain:
            raise UserError(f"{root}: 0 is a class of its own (other) here, which only the label files of the official "
                            f"{self.archive.name} archive tell; expected its {self._mark} in the folder")  # fmt: skip
        classes = metainfo_of({"type": self.kind})["classes"]
        loaders = folder_data(root, class_names=classes)
        for loader in loaders.values():
            loader["dataset"]["pipeline"] = list(pipeline)
        if "train_dataloader" in loaders:
            loaders["val_dataloader"] = loaders["train_dataloader"]
        return loaders

    def _kind(self, root: Path, split: str) -> str:
        """The type that reads the labels that are there, such as Cityscapes' labelIds, unless ours reads others."""
        part = self.archive.parts(root).get(split, {})
        return part.get("type", self.kind) if self.kind == self.archive.types[0] else self.kind

    def _archive(self, root: Path) -> Path:
        found = next((place for place in self.archive.roots(root) if (place / self._mark).is_dir()), None)
        if found is None:
            raise UserError(f"data root {root}: expected the official {self.archive.name} archive (with {self._mark} "
                            f"in it, or in {' or '.join(self.archive.inside)})"
                            f"{', or the folders images and labels' if self.plain else ''}; found neither")  # fmt: skip
        return found

    @property
    def _mark(self) -> str:
        return self.splits["val"]["data_prefix"]["img_path"]


def _voc(split: str) -> dict[str, Any]:
    prefix = {"img_path": "JPEGImages", "seg_map_path": "SegmentationClass"}
    return {"data_prefix": prefix, "ann_file": f"ImageSets/Segmentation/{split}.txt"}


def _ade(split: str) -> dict[str, Any]:
    return {"data_prefix": {"img_path": f"images/{split}", "seg_map_path": f"annotations/{split}"}}


def _cityscapes(split: str) -> dict[str, Any]:
    return {"data_prefix": {"img_path": f"leftImg8bit/{split}", "seg_map_path": f"gtFine/{split}"}}


_ADE = {"archive": layouts.ADE20K, "root": "data/ade/ADEChallengeData2016",
        "splits": {"train": _ade("training"), "val": _ade("validation")}}  # fmt: skip
VOC = MeasuredData(
    archive=layouts.VOC,
    kind="PascalVOCDataset",
    root="data/VOCdevkit/VOC2012",
    splits={"train": _voc("train"), "val": _voc("val")},
)
ADE20K = MeasuredData(kind="ADE20KDataset", reduce_zero_label=True, **_ADE)
ADE20K_OTHER = MeasuredData(kind="ADE20K151Dataset", plain=False, **_ADE)
CITYSCAPES = MeasuredData(
    archive=layouts.CITYSCAPES,
    kind="CityscapesDataset",
    root="data/cityscapes/",
    splits={"train": _cityscapes("train"), "val": _cityscapes("val")},
)
