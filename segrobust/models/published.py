"""Published robust checkpoints by name: what each is, where it comes from, and what its authors report. No torch.

The files are not part of the package: ``load_segmenter("pirat-upernet-convnext-t-voc", FILE)`` takes the user's own.
Scores are quoted, (aAcc, mIoU) in percent; none of them was reproduced here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

RAW = {"mean": None, "std": None}  # PIR-AT's networks take images in [0, 1] as they are
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Who published a checkpoint.

    Args:
        protocols: how they prepare images and labels, by the name of the data set.
        sources: of the scores.
        envelope, prefix: the entry of a file in which the weights lie, and what stands before each name there.
    """

    name: str
    citation: str
    repository: str
    protocols: Mapping[str, str]
    sources: str
    normalisation: Mapping[str, list[float] | None]
    envelope: str | None = None
    prefix: str = ""
    licence: str = "none stated"

    @property
    def layout(self) -> str:
        """Of their files, in words."""
        if self.envelope is None:
            return "a bare state dict"
        return f"weights in {self.envelope!r}, each name after {self.prefix!r}"


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set in the layout of its official archive, as mmseg's ``base`` config reads it.

    Cityscapes needs the ``*_labelTrainIds.png`` besides, which its own scripts write.

    Args:
        kind: the type of data set in place of the base's, where that has other classes.
        protocol: of ``segrobust.datasets.protocols``, under which PIR-AT's authors measure on it.
        scale: (long side at most, short side) of an image at the network's input, in pixels.
    """

    name: str
    base: str
    num_classes: int
    scale: tuple[int, int]
    kind: str | None = None
    protocol: str | None = None

    def settings(self) -> dict[str, Any]:
        """What differs from the base: labels are resized with their images, and no split augments."""
        pipeline = [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations"},
            {"type": "Resize", "scale": self.scale, "keep_ratio": True},
            {"type": "PackSegInputs"},
        ]
        kind = {} if self.kind is None else {"type": self.kind}
        return {f"{split}_dataloader": {"dataset": {"pipeline": pipeline, **kind}} for split in SPLITS}


PIRAT = Paper(
    name="PIR-AT",
    citation="Croce, Singh and Hein, ECCV 2024",
    repository="github.com/nmndeep/Robust-Segmentation",
    protocols={
        "VOC 2012": "short side 473, centre crop 473; void counts as background, nothing is ignored",
        "ADE20K": "short side 512, centre crop 512; 0 (other) is a class, nothing is ignored",
    },
    sources="SEA (300 steps): tables 1, 2, 3 and 6 of the paper",
    normalisation=RAW,
)
DDCAT = Paper(
    name="DDC-AT",
    citation="Xu, Zhao and Jia, ICCV 2021",
    repository="github.com/dvlab-research/Robust-Semantic-Segmentation",
    protocols={
        "VOC 2012": "long side 512, padded, tiles of 473 with stride 316; 255 is ignored",
        "Cityscapes": "1024x512, tiles of 449 with stride 300; 255 is ignored",
    },
    sources="BIM: the paper, mean of 2 trainings; SEA: PIR-AT's paper, table 2, which does not tell its protocol",
    normalisation=IMAGENET,
    envelope="state_dict",
    prefix="module.",
)
VOC = Data(name="VOC 2012", base="pascal_voc12", num_classes=21, scale=(2048, 473),
           protocol="voc473-void-as-background-21")  # fmt: skip
ADE20K = Data(name="ADE20K", base="ade20k", num_classes=151, scale=(2048, 512), kind="ADE20K151Dataset",
              protocol="ade512-151")  # fmt: skip
CITYSCAPES = Data(name="Cityscapes", base="cityscapes", num_classes=19, scale=(1024, 512))


class Score(NamedTuple):
    """aAcc (None where it is not stated) and mIoU, in percent."""

    aacc: float | None
    miou: float


@dataclass(frozen=True, kw_only=True)
class Published:
    """One checkpoint.

    Args:
        arch: its network, one of ``segrobust.models.papers.architectures``.
        file: its published name; None where the authors published none.
        scores: by what was done to the images: "clean", or an attack with its radius.
    """

    name: str
    paper: Paper
    training: str
    arch: str
    data: Data
    parameters: int
    file: str | None
    scores: Mapping[str, Score]

    @property
    def base(self) -> str:
        """The config of mmseg's that names the data."""
        return f"mmseg::_base_/datasets/{self.data.base}.py"

    @property
    def protocol(self) -> str | None:
        """The authors' own, by its name; None for DDC-AT's tiles, whose averaged answers are not attacked here."""
        return self.data.protocol if self.paper is PIRAT else None

    def settings(self) -> dict[str, Any]:
        """What a config holds beside the base: the model, and what differs in the data."""
        model = {"type": "PaperSegmenter", "arch": self.arch, "num_classes": self.data.num_classes}
        model |= {"name": self.name, **self.paper.normalisation}
        return {"default_scope": "mmseg", "model": model, **self.data.settings()}


def _sea(clean: tuple[float | None, float], *robust: tuple[float, float]) -> dict[str, Score]:
    """Under SEA, 300 steps, Linf, at 4, 8 and 12/255."""
    attacked = {f"SEA {eps}/255": Score(*score) for eps, score in zip((4, 8, 12), robust, strict=True)}
    return {"clean": Score(*clean), **attacked}


def _bim(clean: float, *robust: float) -> dict[str, Score]:
    """Under BIM of 2, 4 and 6 steps, Linf, at 0.03."""
    attacked = {f"BIM-{steps} 0.03": Score(None, miou) for steps, miou in zip((2, 4, 6), robust, strict=True)}
    return {"clean": Score(None, clean), **attacked}


SEA_FINDS_NOTHING_ROBUST = {f"SEA {eps}/255": Score(0.0, 0.0) for eps in (4, 8, 12)}


def _pirat(name: str, arch: str, data: Data, parameters: int, file: str | None, scores: Mapping) -> Published:
    return Published(
        name=name,
        paper=PIRAT,
        training="adversarial, Linf 4/255",
        arch=arch,
        data=data,
        parameters=parameters,
        file=file,
        scores=scores,
    )


TRAININGS = {
    "nodefense": ("no_defense", "standard"),
    "sat": ("sat", "half adversarial, Linf 0.03"),
    "ddcat": ("ddcat", "the same, with branches"),
}


def _ddcat(net: str, data: str, training: str, parameters: int, scores: Mapping) -> Published:
    folder, words = TRAININGS[training]
    head, archive, arch = {"pspnet50": ("psp", "pspnet", "pspnet50_deepstem"),
                           "deeplabv3-50": ("aspp", "deeplabv3", "deeplabv3_50_deepstem")}[net]  # fmt: skip
    place, epoch, where = {"voc": ("voc2012", 50, VOC), "cityscapes": ("cityscapes", 400, CITYSCAPES)}[data]
    ending = f"_{head}" if (training, data) == ("sat", "cityscapes") else ""
    return Published(
        name=f"ddcat-{net}-{data}-{training}",
        paper=DDCAT,
        training=words,
        arch=arch + ("_branches" if training == "ddcat" else ""),
        data=where,
        parameters=parameters,
        file=f"pretrain/{place}/{archive}/{folder}/train_epoch_{epoch}{ending}.pth",
        scores=scores,
    )


_ALL = (
    _pirat("pirat-upernet-convnext-t-voc", "upernet_convnext_t_cvst", VOC, 60181610, "UperNet_ConvNext_T_VOC.pth",
           _sea((92.7, 75.2), (88.6, 64.9), (71.7, 34.6), (28.1, 5.5))),
    _pirat("pirat-upernet-convnext-s-voc", "upernet_convnext_s_cvst", VOC, 81816170, "UperNet_ConvNext_S_VOC.pth",
           _sea((93.1, 76.6), (89.1, 66.0), (71.0, 36.4), (27.6, 6.2))),
    _pirat("pirat-upernet-convnext-t-ade20k", "upernet_convnext_t_cvst", ADE20K, 60281710, "UperNet_ConvNext_T_ADE.pth",
           _sea((70.5, 31.7), (55.5, 17.2), (26.4, 4.9), (3.1, 0.4))),
    _pirat("pirat-upernet-convnext-s-ade20k", "upernet_convnext_s_cvst", ADE20K, 81916270, "UperNet_ConvNext_S_ADE.pth",
           _sea((None, 32.1), (56.8, 17.9), (28.7, 5.4), (3.1, 0.6))),
    _pirat("pirat-segmenter-vit-s-ade20k", "segmenter_vit_s", ADE20K, 26419350, "Segmenter_vit_s_robust.pth",
           _sea((69.1, 28.7), (55.3, 14.9), (33.3, 5.3), (8.9, 1.1))),
    _pirat("pirat-pspnet50-voc", "pspnet50", VOC, 48957802, None,
           _sea((90.6, 68.9), (81.5, 47.7), (50.6, 11.2), (12.9, 1.4))),
    _pirat("pirat-pspnet50-deepstem-voc", "pspnet50_deepstem", VOC, 49081578, None, {}),
    _ddcat("pspnet50", "voc", "nodefense", 49081578, _bim(76.9, 18.9, 7.8, 5.4)),
    _ddcat("pspnet50", "voc", "sat", 49081578, _bim(74.3, 68.1, 44.5, 27.9) | SEA_FINDS_NOTHING_ROBUST),
    _ddcat("pspnet50", "voc", "ddcat", 86844161, _bim(76.0, 75.6, 47.9, 33.8) | SEA_FINDS_NOTHING_ROBUST),
    _ddcat("deeplabv3-50", "voc", "nodefense", 39440362, _bim(77.5, 19.6, 8.1, 5.5)),
    _ddcat("deeplabv3-50", "voc", "sat", 39440362, _bim(72.7, 62.4, 43.1, 28.8)),
    _ddcat("deeplabv3-50", "voc", "ddcat", 40102657, _bim(75.2, 69.9, 43.6, 32.3)),
    _ddcat("pspnet50", "cityscapes", "nodefense", 49080038, _bim(74.6, 26.2, 5.5, 2.1)),
    _ddcat("pspnet50", "cityscapes", "sat", 49080038, _bim(69.0, 46.7, 32.9, 25.8)),
    _ddcat("pspnet50", "cityscapes", "ddcat", 86841595, _bim(71.7, 50.2, 34.7, 28.7)),
    _ddcat("deeplabv3-50", "cityscapes", "nodefense", 39439334, _bim(74.8, 26.0, 5.7, 2.3)),
    _ddcat("deeplabv3-50", "cityscapes", "sat", 39439334, _bim(69.4, 46.1, 31.8, 26.2)),
    _ddcat("deeplabv3-50", "cityscapes", "ddcat", 40101115, _bim(71.3, 50.9, 34.9, 29.0)),
)  # fmt: skip
PUBLISHED: dict[str, Published] = {one.name: one for one in _ALL}
