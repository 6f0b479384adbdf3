"""A tiny world for the command line: three-class images, an mmseg config, its weights, and one finished run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.cli import main

CONFIG = """
default_scope = "mmseg"
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[127.5] * 3, std=[64.0] * 3, bgr_to_rgb=True, size=(32, 48), seg_pad_val=255
    ),
    backbone=dict(
        type="ResNetV1c", depth=18, base_channels=8, stem_channels=8, num_stages=4, out_indices=(0, 1, 2, 3),
        strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), norm_cfg=dict(type="BN"),
    ),
    decode_head=dict(
        type="FCNHead", in_channels=16, in_index=1, channels=8, num_convs=1, concat_input=False, num_classes=3,
        norm_cfg=dict(type="BN"), align_corners=False, loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True),
    ),
    train_cfg=dict(), test_cfg=dict(mode="whole"),
)
pipeline = [dict(type="LoadPair"), dict(type="PackSegInputs")]
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="ImageLabelFolder", data_root=DATA_ROOT, split="test", test_mode=True, pipeline=pipeline),
)
test_cfg = dict(type="TestLoop")
test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
"""
# the weights are random: the trust checks rightly call such results untrustworthy, with exit status 1
QUICK = ("--attack", "cepgd", "--eps", "1/255", "--steps", "2", "--batch-size", "2")


@dataclass(frozen=True)
class World:
    """Paths of the tiny world."""

    root: Path
    data: Path
    config: Path
    weights: Path

    def evaluate(
        self,
        work_dir: Path,
        *options: object,
        config: Path | None = None,
        weights: Path | None = None,
        checks: bool = False,
    ):
        """The arguments of a quick evaluation; ``options`` come last and so win."""
        files = (config or self.config, weights or self.weights)
        without = () if checks else ("--no-checks",)
        return [str(part) for part in ("evaluate", *files, "--work-dir", work_dir, *QUICK, *options, *without)]

    def broken_data(self, target: Path, name: str, label: np.ndarray | None) -> Path:
        """A copy of the data with the middle test image's label replaced, or missing for None."""
        shutil.copytree(self.data, target)
        path = target / "labels" / "test" / name
        path.unlink()
        if label is not None:
            Image.fromarray(label).save(path)
        return target


def write_data(root: Path) -> Path:
    """Four images of 32x48 whose colour says the class."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind / "test").mkdir(parents=True)
    for index in range(4):
        label = np.repeat(np.repeat(rng.integers(0, 3, (4, 6)), 8, 0), 8, 1).astype(np.uint8)
        image = np.stack([60 + 60 * label] * 3, -1) + rng.integers(0, 30, (32, 48, 3))
        label[0] = 255
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / "test" / f"{index}.png")
        Image.fromarray(label).save(root / "labels" / "test" / f"{index}.png")
    (root / "classes.json").write_text('{"classes": ["dark", "grey", "bright"]}')
    return root


def tiny_weights(config: Path, num_classes: int = 3) -> dict[str, torch.Tensor]:
    """Random weights for the config's model."""
    from segrobust.models.mm import import_mmseg, load_config

    import_mmseg()
    from mmseg.registry import MODELS

    loaded = load_config(config, {"model.decode_head.num_classes": num_classes})
    torch.manual_seed(0)
    return MODELS.build(loaded.model).state_dict()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("world")
    data, config, weights = write_data(root / "data"), root / "tiny.py", root / "tiny.safetensors"
    config.write_text(CONFIG.replace("DATA_ROOT", repr(str(data))))
    save_file(tiny_weights(config), weights)
    return World(root, data, config, weights)


@pytest.fixture(scope="session")
def finished(world: World) -> Path:
    """The work dir of an evaluation that has run to its end."""
    work_dir = world.root / "finished"
    assert main(world.evaluate(work_dir)) == 0
    return work_dir
