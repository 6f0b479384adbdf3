"""One reading of files: what every kind of image and label means, or why it is refused, the same in all pipelines."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segrobust.core.errors import UserError
from segrobust.datasets.files import image_size, read_image, read_label
from segrobust.models.mm import import_mmseg

from .kinds import GREY, READ, REFUSED, RGB, SIZE

import_mmseg()

from mmengine.dataset import Compose  # noqa: E402

from segrobust.datasets.pipeline import with_own_reading  # noqa: E402

PIPELINES = {
    "LoadPair": [dict(type="LoadPair")],
    "mmseg": [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")],
    "cv2 and float32": [
        dict(type="mmcv.LoadImageFromFile", to_float32=True, color_type="color_ignore_orientation"),
        dict(type="mmseg.LoadAnnotations", imdecode_backend="cv2"),
    ],
}


def load(steps, image, label):
    dataset = dict(type="BaseSegDataset", metainfo=dict(classes=tuple("abc")), pipeline=steps)
    run = Compose(with_own_reading(dataset)["pipeline"])
    facts = dict(reduce_zero_label=False, label_map=None, seg_fields=[])
    return run(dict(img_path=str(image), seg_map_path=str(label), **facts))


@pytest.fixture
def label(tmp_path):
    path = tmp_path / "label.png"
    Image.fromarray(GREY % 3).save(path)
    return path


@pytest.mark.parametrize("kind", READ)
def test_all_pipelines_see_what_a_file_means(kind, tmp_path, label):
    suffix, write, pixels = READ[kind]
    path = tmp_path / f"image.{suffix}"
    write(path)
    assert np.array_equal(read_image(path), pixels) and image_size(path) == SIZE
    for steps in PIPELINES.values():
        seen = load(steps, path, label)
        assert np.array_equal(seen["img"], pixels[..., ::-1])
        assert seen["gt_seg_map"].dtype == np.uint8 and np.array_equal(seen["gt_seg_map"], GREY % 3)
        assert seen["ori_shape"] == seen["img_shape"] == SIZE
    assert seen["img"].dtype == np.float32  # to_float32 of the last


@pytest.mark.parametrize("kind", REFUSED)
def test_all_pipelines_refuse_alike_what_could_be_read_in_two_ways(kind, tmp_path, label):
    suffix, write, message = REFUSED[kind]
    path = tmp_path / f"image.{suffix}"
    write(path)
    told = set()
    for steps in PIPELINES.values():
        with pytest.raises(UserError, match=message) as caught:
            load(steps, path, label)
        told.add(str(caught.value))
    assert len(told) == 1 and f"image {path}" in told.pop()


def test_jpegs_are_decoded_alike_and_nearly_as_opencv_does(tmp_path, label):
    import cv2

    path = tmp_path / "image.jpg"
    Image.fromarray(RGB).resize((64, 48)).save(path, quality=80)
    seen = [read_image(path)]
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(label)
    seen += [load(steps, path, label)["img"][..., ::-1] for steps in PIPELINES.values()]
    assert all(np.array_equal(seen[0], one) for one in seen)
    assert np.abs(seen[0].astype(int) - cv2.imread(str(path))[..., ::-1]).max() <= 3


LABELS = {
    "8 bits": ("png", lambda p: Image.fromarray(GREY).save(p), GREY),
    "16 bits": ("png", lambda p: Image.fromarray(GREY * np.uint16(257)).save(p), GREY * np.uint16(257)),
    "32 bits": ("tif", lambda p: Image.fromarray(GREY.astype(np.int32) - 9).save(p), GREY.astype(np.int32) - 9),
    "1 bit": ("png", lambda p: Image.fromarray(GREY > 127).save(p), (GREY > 127).astype(np.uint8)),
    "palette": ("png", READ["palette"][1], GREY % 4),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_the_stored_numbers(kind, tmp_path):
    suffix, write, ids = LABELS[kind]
    path = tmp_path / f"label.{suffix}"
    write(path)
    read = read_label(path)
    assert read.dtype.kind in "ui" and np.array_equal(read, ids)


NO_LABELS = {
    "colours": (
        "png",
        lambda p: Image.fromarray(RGB).save(p),
        r"3 channels \(a picture in colours\?\).* of each colour",
    ),
    "alpha": ("png", lambda p: Image.fromarray(GREY).convert("LA").save(p), "2 channels"),
    "floats": ("tif", lambda p: Image.fromarray(GREY.astype(np.float32)).save(p), "float32 values"),
    "JPEG": ("jpg", lambda p: Image.fromarray(GREY).save(p), "a JPEG, whose compression changes ids"),
    "4-bit grey": ("png", lambda p: Image.fromarray(GREY % 16).save(p, bits=4), "fewer than 8 bits"),
    "turned": ("png", REFUSED["orientation 2, png"][1], "EXIF orientation 2"),
}


@pytest.mark.parametrize("kind", NO_LABELS)
def test_all_pipelines_refuse_what_is_no_label(kind, tmp_path):
    suffix, write, message = NO_LABELS[kind]
    image, path = tmp_path / "image.png", tmp_path / f"label.{suffix}"
    Image.fromarray(RGB).save(image)
    write(path)
    for steps in PIPELINES.values():
        with pytest.raises(UserError, match=message) as caught:
            load(steps, image, path)
        assert f"label {path}" in str(caught.value)


@pytest.mark.parametrize("steps", PIPELINES.values(), ids=PIPELINES)
def test_a_label_of_another_size_is_refused_with_both_sizes(steps, tmp_path):
    image, path = tmp_path / "image.png", tmp_path / "label.png"
    Image.fromarray(RGB).save(image)
    Image.fromarray(GREY[::2, ::2] % 3).save(path)
    for order in (steps, steps[::-1]):
        with pytest.raises(UserError, match=r"label\.png is 3x4 \(height x width\) but its image is 6x8"):
            load(order, image, path)
