"""The protocols, as data; a new one is an entry here.

All of them are single passes: DDC-AT's own tiles, with averaged answers and a flip, are not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError
from segrobust.core.rows import INPUT
from segrobust.datasets.protocols.data import ADE20K, ADE20K_OTHER, CITYSCAPES, VOC, MeasuredData

_SEA = "Croce, Singh and Hein, ECCV 2024 (arXiv 2306.12941): SEA and PIR-AT, as their code evaluates"
_TSALLIS = "TsallisPGD (arXiv 2605.03405), as its code evaluates"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How images become a network's input, where eps holds, and which label pixels count as what.

    Args:
        resize: one after the other, a short side in pixels (the other one is rounded down) or (width, height): images
            bilinearly by area as PIL does it, labels to the nearest pixel.
        crop: the side of the square in the centre that is kept; None keeps all.
        void_class: the class as which void pixels count; None leaves them out.
        metric_size: where predictions meet labels, ``"input"`` or ``"original"``.
        source: who published it.
    """

    name: str
    data: MeasuredData
    num_classes: int
    resize: tuple[int | tuple[int, int], ...] = ()
    crop: int | None = None
    void_class: int | None = None
    metric_size: str = INPUT
    source: str

    def pipeline(self) -> list[dict[str, Any]]:
        """The steps of a test pipeline of mmseg's."""
        steps: list[dict[str, Any]] = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
        steps += [{"type": "ResizeAsPIL", "size": size} for size in self.resize]
        if self.crop is not None:
            steps.append({"type": "CenterCrop", "crop_size": (self.crop, self.crop)})
        if self.void_class is not None:
            steps.append({"type": "VoidAsClass", "class_id": self.void_class})
        return [*steps, {"type": "PackSegInputs"}]

    def loaders(self, data_root: Path | None = None) -> dict[str, Any]:
        """``test_dataloader`` of a config, and those of training images prepared alike; needs mmseg imported.

        Args:
            data_root: the official archive or a plain folder; None: where mmseg's configs look for it.

        Raises:
            UserError: neither is there.
        """
        return self.data.loaders(data_root, self.pipeline())

    def check_fits(self, num_classes: int, metric_size: str) -> None:
        """Raise a UserError where a model has other classes, or it is to be measured elsewhere."""
        if metric_size != self.metric_size:
            raise UserError(f"protocol {self.name} measures at metric size {self.metric_size}, not {metric_size}; "
                            "leave --metric-size out")  # fmt: skip
        if num_classes != self.num_classes:
            others = [one.name for one in PROTOCOLS.values()
                      if (one.data.archive, one.num_classes) == (self.data.archive, num_classes)]  # fmt: skip
            hint = f"; {' or '.join(others)} has as many" if others else ""
            raise UserError(f"protocol {self.name} has {self.num_classes} classes, but the model {num_classes}{hint}")


_ALL = (
    Protocol(
        name="voc473-void-as-background-21", data=VOC, num_classes=21, resize=(473,), crop=473, void_class=0,
        source=_SEA,
    ),
    Protocol(
        name="voc473-ignore255", data=VOC, num_classes=21, resize=(473,), crop=473,
        source=f"{_TSALLIS} DDC-AT's networks",
    ),
    Protocol(name="ade512-151", data=ADE20K_OTHER, num_classes=151, resize=(512,), crop=512, source=_SEA),
    Protocol(
        name="ade512-150", data=ADE20K, num_classes=150, resize=(512,), crop=512,
        source=f"mmseg's 150 classes, 0 ignored, on the crops of {_SEA}",
    ),
    Protocol(
        name="city1024x512-crop449", data=CITYSCAPES, num_classes=19, resize=((1024, 512), 449), crop=449,
        source=f"{_TSALLIS} DDC-AT's networks",
    ),
    Protocol(
        name="city1024x512-crop512", data=CITYSCAPES, num_classes=19, resize=((1024, 512), 512), crop=512,
        source=f"{_TSALLIS} mmseg's networks",
    ),
    Protocol(
        name="city-full", data=CITYSCAPES, num_classes=19,
        source="CosPGD (arXiv 2302.02213) and ALMA prox (arXiv 2206.07179): whole images of 1024x2048",
    ),
    Protocol(
        name="voc512-short-side", data=VOC, num_classes=21, resize=(512,),
        source="ALMA prox (arXiv 2206.07179), as its code evaluates",
    ),
)  # fmt: skip
PROTOCOLS: Mapping[str, Protocol] = {one.name: one for one in _ALL}


def at_root(config: Any, root: Path) -> None:
    """Let a config's own data sets, however wrapped, lie in ``root``; UserError: none of them names a data root."""
    found = [_set_root(config.get(f"{split}_dataloader"), str(root)) for split in ("train", "val", "test")]
    if not found[-1]:
        raise UserError(f"--data-root {root}: the config's test_dataloader names no data_root to replace; give "
                        "--protocol NAME beside it")  # fmt: skip


def _set_root(node: Any, root: str) -> bool:
    """Whether a data set was found under ``node``."""
    if isinstance(node, list | tuple):
        return any([_set_root(one, root) for one in node])
    if not isinstance(node, Mapping):
        return False
    inner = [_set_root(node[key], root) for key in ("dataset", "datasets") if key in node]
    if "data_root" in node:
        node["data_root"] = root
    return any(inner) or "data_root" in node
