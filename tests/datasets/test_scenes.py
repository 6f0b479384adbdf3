"""The procedural scenes: deterministic, complete, with void borders and small objects."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from segrobust.core.errors import UserError
from segrobust.datasets.canvas import VOID, Canvas, smooth_noise
from segrobust.datasets.scenes import CLASSES, PALETTE, render_scene, write_scenes

SIZE = (48, 64)


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_seed_gives_the_same_folder(tmp_path):
    first = write_scenes(tmp_path / "a", train=3, val=1, test=2, size=SIZE, seed=5)
    second = write_scenes(tmp_path / "b", train=3, val=1, test=2, size=SIZE, seed=5)
    assert files(first) == files(second)
    assert len(files(first)) == 2 * (3 + 1 + 2) + 1


def test_seed_split_and_number_each_change_the_scene():
    scenes = [render_scene(SIZE, *which)[0].tobytes() for which in
              ((0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "train", 1))]  # fmt: skip
    assert len(set(scenes)) == len(scenes)


def test_a_scene_does_not_depend_on_how_many_are_written(tmp_path):
    write_scenes(tmp_path, train=2, val=1, test=1, size=SIZE)
    image, label = render_scene(SIZE, 0, "train", 1)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "images/train/scene_00001.png")), image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "labels/train/scene_00001.png")), label)


def test_every_class_and_void_occur():
    seen = np.concatenate([render_scene((64, 96), 0, "train", n)[1].ravel() for n in range(12)])
    share = np.bincount(seen, minlength=256) / seen.size
    assert (share[: len(CLASSES)] > 0.001).all()
    assert 0.02 < share[VOID] < 0.2
    assert share[: len(CLASSES)].sum() + share[VOID] == pytest.approx(1)
    assert len(PALETTE) == len(CLASSES) == len(set(PALETTE))


def test_an_object_in_front_keeps_its_pixels_and_is_ringed_by_void():
    canvas = Canvas((12, 12), np.random.default_rng(0))
    canvas.rectangle(0, (0, 0, 1, 1), np.zeros(3))
    canvas.rectangle(1, (4 / 12, 5 / 12, 8 / 12, 7 / 12), np.ones(3))
    expected = np.zeros((12, 12), dtype=int)
    expected[4:8, 4:8] = VOID
    expected[5:7, 3] = expected[5:7, 8] = VOID
    expected[5:7, 4:8] = 1
    assert np.array_equal(canvas.label(), expected)
    assert np.allclose(canvas.image[5:7, 4:8], 1)


def test_smooth_noise_is_linear_between_its_nodes():
    noise = smooth_noise(np.random.default_rng(0), (40, 40), 4)
    nodes = np.random.default_rng(0).uniform(-1, 1, size=(5, 5))
    assert np.allclose(noise[::10, ::10], nodes[:4, :4])
    assert noise[5, 0] == pytest.approx((nodes[0, 0] + nodes[1, 0]) / 2)


def test_a_complete_folder_is_left_alone_and_another_one_refused(tmp_path):
    root = write_scenes(tmp_path, train=1, val=1, test=1, size=SIZE)
    image = root / "images/train/scene_00000.png"
    before = image.stat().st_mtime_ns
    write_scenes(tmp_path, train=1, val=1, test=1, size=SIZE)
    assert image.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="another data set"):
        write_scenes(tmp_path, train=1, val=1, test=1, size=SIZE, seed=1)


def test_an_interrupted_writing_is_done_again(tmp_path):
    write_scenes(tmp_path, train=1, val=1, test=1, size=SIZE)
    whole = files(tmp_path)
    (tmp_path / "classes.json").unlink()
    (tmp_path / "images/test/scene_00000.png").unlink()
    write_scenes(tmp_path, train=1, val=1, test=1, size=SIZE)
    assert files(tmp_path) == whole


def test_classes_json_names_the_classes(tmp_path):
    content = json.loads((write_scenes(tmp_path, 1, 1, 1, size=SIZE) / "classes.json").read_text())
    assert tuple(content["classes"]) == CLASSES
    assert [tuple(colour) for colour in content["palette"]] == list(PALETTE)


@pytest.mark.parametrize("arguments", [dict(train=0, val=1, test=1), dict(train=1, val=1, test=1, size=(8, 8))])
def test_empty_splits_and_tiny_images_are_refused(tmp_path, arguments):
    with pytest.raises(UserError, match="at least 1 image per split"):
        write_scenes(tmp_path, **arguments)


def test_scenes_with_the_classes_of_camvid_are_written_once(tmp_path, monkeypatch):
    from segrobust.models.mm import import_mmseg

    import_mmseg()
    from mmseg.registry import DATASETS

    monkeypatch.setenv("SEGROBUST_CACHE", str(tmp_path))
    data = DATASETS.build(dict(type="CamVidScenes", split="test", test_mode=True))
    (folder,) = tmp_path.iterdir()
    stamps = {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}
    names, expected = data.metainfo["classes"], {"sign symbol" if name == "sign" else name for name in CLASSES}
    assert len(data) == 8 and data[0]["inputs"].shape == (3, 180, 240)
    seen = set()
    for index, packed in enumerate(data):
        label = packed["data_samples"].gt_sem_seg.data[0].numpy()
        own = np.array(Image.open(data.get_data_info(index)["seg_map_path"]))
        assert ((label == 255) == (own == 255)).all()
        for number in set(own.flat) - {255}:
            (new,) = set(label[own == number])
            assert names[new].removesuffix(" symbol") == CLASSES[number]
            seen.add(names[new])
    assert seen == expected
    DATASETS.build(dict(type="CamVidScenes", split="val", test_mode=True))
    assert stamps == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
