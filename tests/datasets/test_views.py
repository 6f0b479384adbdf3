"""Of test-time augmentation in a test pipeline the first view of each image is taken, and said."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.commands.data import source_from_config
from segrobust.core.errors import UserError
from segrobust.datasets.source import MMSegSource
from segrobust.datasets.views import with_first_views
from segrobust.models.mm import import_mmseg

from .conftest import write_pair

import_mmseg()

IMAGE, LABEL, PACK = dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")
SCALES = [dict(type="Resize", scale_factor=ratio, keep_ratio=True) for ratio in (0.5, 1.0, 1.5)]
FLIPS = [dict(type="RandomFlip", prob=0.0, direction="horizontal"), dict(type="RandomFlip", prob=1.0)]


def tta(*first) -> dict:
    return copy.deepcopy(dict(type="TestTimeAug", transforms=[*first, [LABEL], [PACK]]))  # mmcv builds them in place


def with_pipeline(config: dict, *steps: dict) -> dict:
    config["test_dataloader"]["dataset"]["pipeline"] = list(steps)
    return config


def test_the_first_scale_without_a_flip_is_taken_and_told_in_one_line(config, caplog):
    with caplog.at_level(logging.WARNING):
        source = source_from_config(with_pipeline(config(), IMAGE, tta(SCALES, FLIPS)))
    plain = source_from_config(with_pipeline(config(), IMAGE, SCALES[0], LABEL, PACK))
    for index in (0, 6):
        assert source[index].image.shape == (3, 4, 5)
        assert torch.equal(source[index].image, plain[index].image)
        assert torch.equal(source[index].label, plain[index].label)
    assert source.recipe == plain.recipe
    (told,) = [one.getMessage() for one in caplog.records if "TestTimeAug" in one.getMessage()]
    assert "of 6 views the first is taken (Resize(scale_factor=0.5, keep_ratio=True), RandomFlip(prob=0.0" in told
    assert "\n" not in told
    assert source.steps == {"LoadImageFromFile", "Resize", "LoadAnnotations", "PackSegInputs"}


def test_a_flip_that_comes_first_is_done(config):
    plain = source_from_config(config([IMAGE, LABEL]))[3]
    flipped = source_from_config(with_pipeline(config(), IMAGE, tta(SCALES[1:], FLIPS[::-1])))[3]
    assert torch.equal(flipped.image, plain.image.flip(-1))


def test_the_first_view_may_not_be_one_of_chance(config):
    with pytest.raises(UserError, match="RandomFlip, which changes images by chance"):
        source_from_config(with_pipeline(config(), IMAGE, tta([dict(type="RandomFlip", prob=0.5)])))
    for wrong in (dict(type="TestTimeAug"), dict(type="TestTimeAug", transforms=[LABEL]), tta([])):
        with pytest.raises(UserError, match=r"TestTimeAug: expected transforms=\[\[step"):
            source_from_config(with_pipeline(config(), IMAGE, wrong))


def test_a_data_set_that_is_built_already_is_refused(config):
    from mmseg.registry import DATASETS

    dataset = DATASETS.build(with_pipeline(config(), IMAGE, tta(FLIPS))["test_dataloader"]["dataset"])
    with pytest.raises(UserError, match="the test pipeline has TestTimeAug"):
        MMSegSource.of(dataset)


def test_views_inside_wrapped_data_sets_and_a_config_that_has_none(config):
    inner = with_pipeline(config(), IMAGE, tta(FLIPS))["test_dataloader"]["dataset"]
    wrapped = dict(type="RepeatDataset", times=1, dataset=inner)
    own = with_first_views(wrapped)
    assert own["dataset"]["pipeline"] == [IMAGE, LABEL, PACK]
    assert inner["pipeline"][1]["type"] == "TestTimeAug", "the config itself stays as it is"
    assert with_first_views(own) == own


def test_ade20ks_own_pipelines_on_files_in_its_layout(tmp_path, caplog):
    """Raw ids 0..150: 0 is void, k is class k - 1; images fit into 2048x512 with their ratio kept."""
    from segrobust.models.mm import load_config

    raw = np.array([[0, 1], [150, 2]], np.uint8).repeat(10, 0).repeat(20, 1)
    write_pair(tmp_path / "all", "ADE_val_1", np.zeros((20, 40, 3), np.uint8), raw)
    for source, target in (("images", "images/validation"), ("labels", "annotations/validation")):
        (tmp_path / target).parent.mkdir(exist_ok=True)
        (tmp_path / "all" / source / "test").rename(tmp_path / target)
    file = tmp_path / "images/validation/ADE_val_1.png"
    Image.open(file).save(file.with_suffix(".jpg"))
    file.unlink()
    config = load_config("mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
                         {"test_dataloader.dataset.data_root": str(tmp_path)})  # fmt: skip
    sample = source_from_config(config)[0]
    assert sample.image.shape == (3, 512, 1024)
    assert sample.label.shape == (512, 1024)
    corners = [int(sample.label[row, column]) for row in (0, -1) for column in (0, -1)]
    assert corners == [255, 0, 149, 1]
    assert source_from_config(config).num_classes == 150
    assert torch.equal(source_from_config(config).original_label(0).unique(), torch.tensor([0, 1, 149, 255]))
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    halved = source_from_config(config)[0]
    assert halved.image.shape == (3, 10, 20)
    assert halved.label.unique().tolist() == [0, 1, 149, 255]
