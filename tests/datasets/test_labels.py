"""From stored ids to class ids: the arithmetic of mmseg without its wrapping, and labels that keep their place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.commands.data import source_from_config
from segrobust.core.errors import UserError
from segrobust.datasets.labels import class_ids, resize_nearest

from .conftest import write_pair

MMSEG = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
REDUCED = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", reduce_zero_label=True)]
DTYPES = (np.uint8, np.uint16, np.int32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_mmseg_relabels(dtype):
    stored = np.array([[0, 1, 150, 255]], dtype=dtype)
    assert class_ids(stored, dict(reduce_zero_label=True), "x").tolist() == [[255, 0, 149, 255]]
    assert class_ids(stored, dict(label_map={0: 1, 1: 0, 150: 255}), "x").tolist() == [[1, 0, 255, 255]]
    both = dict(reduce_zero_label=True, label_map={0: 1, 149: 0})
    assert class_ids(stored, both, "x", num_classes=2).tolist() == [[255, 1, 0, 255]]
    assert class_ids(stored, dict(label_map=None, reduce_zero_label=False), "x").tolist() == stored.tolist()
    assert class_ids(stored, {}, "x").dtype == np.uint8


def test_many_classes_keep_their_ids():
    stored = np.array([[0, 200, 256, 300]], dtype=np.uint16)
    ids = class_ids(stored, {}, "x", num_classes=301, ignore_index=65535)
    assert ids.tolist() == stored.tolist() and ids.dtype == np.int16


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("wrong, classes", [(256, 60), (300, 60), (300, 3), (256, None), (65535, 60)])
def test_16_bit_ids_are_named_before_any_arithmetic(dtype, wrong, classes):
    stored = np.array([[0, 1, wrong, wrong]], dtype=dtype)
    if classes is None:  # unknown to a loader in training: 256 alone would become void
        with pytest.raises(UserError, match=r"lab\.png holds the id 256 \(2 pixels out of range\)"):
            class_ids(stored, dict(reduce_zero_label=True), "lab.png")
        return
    with pytest.raises(UserError, match=rf"lab\.png holds the id {wrong} \(2 .*expected 1\.\.{classes} or 255"):
        class_ids(stored, dict(reduce_zero_label=True), "lab.png", classes)


@pytest.mark.parametrize("steps", [None, REDUCED, MMSEG], ids=["LoadPair", "loader and data set", "data set"])
def test_reduce_zero_label_happens_once(folder, config, steps):
    write_pair(folder, "img_0", np.zeros((1, 4, 3), np.uint8), np.array([[0, 1, 3, 255]], dtype=np.uint8))
    assert source_from_config(config(steps, reduce_zero_label=True))[0].label.tolist() == [[255, 0, 2, 255]]


def test_loader_and_data_set_must_agree(folder, config):
    with pytest.raises(UserError, match="is True in LoadAnnotations but False in the data set"):
        source_from_config(config(REDUCED))[0]


@pytest.mark.parametrize("steps", [None, MMSEG], ids=["LoadPair", "mmseg"])
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_every_mmseg_data_set_and_chosen_classes(folder, config, steps, dtype):
    """A data set of mmseg's own kind tells no number of classes with its images, and its classes make a label map."""
    from mmseg.datasets import BaseSegDataset
    from mmseg.registry import DATASETS

    class ThreeClasses(BaseSegDataset):
        METAINFO = dict(classes=("red", "green", "blue"))

    DATASETS.register_module(name="ThreeClasses", module=ThreeClasses, force=True)
    ids = np.array([[0, 1, 2, 255]], dtype=dtype)
    write_pair(folder, "img_0", np.zeros((1, 4, 3), np.uint8), ids)
    own = config(steps, metainfo=dict(classes=("blue", "red")), img_suffix=".png", seg_map_suffix=".png",
                 data_prefix=dict(img_path="images/test", seg_map_path="labels/test"), type="ThreeClasses")  # fmt: skip
    own["test_dataloader"]["dataset"].pop("split")
    source = source_from_config(own)
    assert source[0].label.tolist() == [[1, 255, 0, 255]]
    write_pair(folder, "img_0", np.zeros((1, 4, 3), np.uint8), ids + np.array([[0, 0, 1, 0]], dtype=dtype))
    with pytest.raises(UserError, match=r"img_0\.png holds the id 3 "):
        source[0]


LABEL_IDS = {"high": ([7, 11, 26], "x.png", "labelTrainIds"), "low": ([7, 8, 11], "x_gtFine_labelIds.png", "34 ids")}


@pytest.mark.parametrize("kind", LABEL_IDS)
def test_cityscapes_label_ids_are_named(kind):
    ids, name, message = LABEL_IDS[kind]
    stored = np.array([ids], dtype=np.uint8)
    with pytest.raises(UserError, match=message):
        class_ids(stored, {}, name, num_classes=19)
    mapped = class_ids(stored, dict(label_map=dict(zip(ids, (0, 1, 2), strict=True))), name, num_classes=19)
    assert mapped.tolist() == [[0, 1, 2]]
    assert class_ids(stored, {}, name, num_classes=34).tolist() == [ids]


def test_ids_beyond_cityscapes_are_no_label_ids():
    with pytest.raises(UserError, match="holds the id 40 ") as caught:
        class_ids(np.array([[26, 40]], dtype=np.uint8)[:, ::-1], {}, "x.png", num_classes=19)
    assert "Cityscapes" not in str(caught.value)


def test_a_step_of_the_users_own_may_map_ids_first(folder, config):
    from mmcv.transforms import BaseTransform
    from mmseg.registry import TRANSFORMS

    class Halve(BaseTransform):
        def transform(self, results):
            results["gt_seg_map"] = results["gt_seg_map"] // 10
            return results

    TRANSFORMS.register_module(name="Halve", module=Halve, force=True)
    write_pair(folder, "img_0", np.zeros((1, 3, 3), np.uint8), np.array([[0, 10, 20]], dtype=np.uint8))
    assert source_from_config(config([*MMSEG, dict(type="Halve")]))[0].label.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("old, new", [((9, 12), (3, 4)), ((7, 5), (4, 9)), ((16, 8), (8, 4)), ((3, 4), (9, 12))])
def test_resized_labels_sit_on_pixel_centres_and_hold_no_new_id(old, new):
    rng = np.random.default_rng(1)
    ids = rng.choice(np.array([0, 3, 17, 255], np.uint8), size=old)
    resized = resize_nearest(torch.from_numpy(ids), new)
    assert resized.dtype == torch.uint8 and set(resized.unique().tolist()) <= set(np.unique(ids).tolist())
    for row, column in np.ndindex(*new):
        y, x = (((place + 0.5) * a / b - 1e-9) // 1 for place, a, b in zip((row, column), old, new, strict=True))
        assert resized[row, column] == ids[int(y), int(x)]


@pytest.mark.parametrize("steps", [
    [dict(type="LoadPair", scale=(32, 24))],
    [MMSEG[0], dict(type="Resize", scale=(32, 24)), MMSEG[1]],
], ids=["LoadPair", "mmseg"])  # fmt: skip
def test_shrunk_labels_fit_shrunk_images(folder, config, steps):
    """A picture of its own label, a colour per class: shrunk by three, both must agree (cv2's corners: on 71 %)."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 3, (7, 9)).astype(np.uint8)
    ids = np.kron(coarse, np.ones((12, 12), np.uint8))[2:74, 2:98]  # edges inside the coarse pixels
    write_pair(folder, "img_0", 255 * np.eye(3, dtype=np.uint8)[ids], ids)
    sample = source_from_config(config(steps))[0]
    assert sample.label.shape == (24, 32)
    assert (sample.image.argmax(0) == sample.label).float().mean() > 0.99


def test_half_size_takes_every_second_pixel_from_the_first():
    ids = torch.arange(24, dtype=torch.uint8).view(4, 6)
    assert torch.equal(resize_nearest(ids, (2, 3)), ids[::2, ::2])


def test_palette_and_grey_labels_are_the_same(folder, config):
    label = Image.open(folder / "labels/test/img_1.png")
    before = source_from_config(config())[1].label
    palette = label.convert("P")
    palette.putdata(list(np.asarray(label).ravel().tolist()))
    palette.save(folder / "labels/test/img_1.png")
    assert torch.equal(source_from_config(config(MMSEG))[1].label, before)
