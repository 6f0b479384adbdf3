"""The mmseg dataset classes: CamVid where it is, the scenes, and the loading step."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segrobust.datasets.scenes import CLASSES, write_scenes
from segrobust.models.mm import import_mmseg

import_mmseg()

from mmseg.registry import DATASETS  # noqa: E402

from segrobust.core.palette import default_palette  # noqa: E402
from segrobust.datasets.loading import LoadPair  # noqa: E402
from segrobust.datasets.mm import camvid_root  # noqa: E402

needs_camvid = pytest.mark.skipif(not camvid_root().is_dir(), reason="CamVid is not here; set SEGROBUST_CAMVID")


@needs_camvid
@pytest.mark.parametrize("split, count", [("train", 367), ("val", 101), ("test", 233)])
def test_camvid(split, count):
    dataset = DATASETS.build(dict(type="CamVidDataset", split=split, pipeline=[dict(type="LoadPair")]))
    assert len(dataset) == count
    assert len(dataset.metainfo["classes"]) == len(dataset.metainfo["palette"]) == 11
    item = dataset[count // 2]
    assert item["img"].shape == (360, 480, 3)
    assert set(np.unique(item["gt_seg_map"])) <= {*range(11), 255}


@needs_camvid
def test_chosen_classes_of_camvid_leave_the_others_void():
    everything = DATASETS.build(dict(type="CamVidDataset", split="val", pipeline=[dict(type="LoadPair")]))
    chosen = DATASETS.build(dict(type="CamVidDataset", split="val", metainfo=dict(classes=("car", "road")),
                                 pipeline=[dict(type="LoadPair")]))  # fmt: skip
    before, after = everything[0]["gt_seg_map"], chosen[0]["gt_seg_map"]
    assert np.array_equal(after == 0, before == 8) and np.array_equal(after == 1, before == 3)
    assert set(np.unique(after)) == {0, 1, 255}


def test_camvid_root_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("SEGROBUST_CAMVID", "/somewhere/camvid")
    assert str(camvid_root()) == "/somewhere/camvid"
    assert str(camvid_root("/given")) == "/given"
    monkeypatch.delenv("SEGROBUST_CAMVID")
    assert camvid_root().parts[-3:] == ("shared", "data", "camvid")


def test_scenes_are_read_by_their_class(tmp_path):
    write_scenes(tmp_path, train=2, val=1, test=1, size=(32, 48))
    dataset = DATASETS.build(dict(type="SyntheticScenes", data_root=str(tmp_path), split="train",
                                  pipeline=[dict(type="LoadPair")]))  # fmt: skip
    assert len(dataset) == 2 and dataset.metainfo["classes"] == CLASSES
    image = np.asarray(Image.open(tmp_path / "images/train/scene_00001.png"))
    assert np.array_equal(dataset[1]["img"], image[..., ::-1])


def pair(tmp_path):
    write_scenes(tmp_path, train=1, val=1, test=1, size=(32, 48))
    return dict(
        img_path=str(tmp_path / "images/val/scene_00000.png"),
        seg_map_path=str(tmp_path / "labels/val/scene_00000.png"),
        num_classes=len(CLASSES),
        ignore_index=255,
    )


def test_a_cached_pair_survives_changes_downstream(tmp_path):
    info, load = pair(tmp_path), LoadPair(scale=(24, 16), cache=True)
    first = load(dict(info))
    expected = first["img"].copy(), first["gt_seg_map"].copy()
    first["img"][:], first["gt_seg_map"][:] = 0, 0
    (tmp_path / "images/val/scene_00000.png").unlink()
    again = load(dict(info))
    assert np.array_equal(again["img"], expected[0]) and np.array_equal(again["gt_seg_map"], expected[1])
    assert again["img_shape"] == again["ori_shape"] == (16, 24)


def test_default_palette_has_no_colour_twice():
    colours = {tuple(colour) for colour in default_palette(150)}
    assert len(colours) == 150 and max(max(colour) for colour in colours) <= 255
