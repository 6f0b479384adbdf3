"""What the evaluator reads equals what is on disk, and everything wrong with it is told in one line."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.commands.arguments import checked_source
from segrobust.commands.data import source_from_config
from segrobust.core.errors import UserError
from segrobust.datasets.source import evenly_spaced, spaced_around

from .conftest import CLASSES, write_pair

PLAIN_MMSEG = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]


@pytest.mark.parametrize("steps", [None, PLAIN_MMSEG], ids=["LoadPair", "mmseg"])
def test_samples_equal_the_files(folder, config, steps):
    source = source_from_config(config(steps))
    assert len(source) == 7
    for number, sample in enumerate(source[i] for i in range(7)):
        image = np.asarray(Image.open(folder / f"images/test/img_{number}.png"))
        label = np.asarray(Image.open(folder / f"labels/test/img_{number}.png"))
        assert sample.name == f"img_{number}"
        assert sample.image.dtype == torch.float32 and sample.label.dtype == torch.int64
        assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), image.astype(np.float32) / 255)
        assert np.array_equal(sample.label.numpy(), label)


def test_classes_palette_and_void(config):
    source = source_from_config(config())
    assert (source.num_classes, source.class_names, source.ignore_index) == (3, CLASSES, 255)
    assert len(source.palette) == 3 == len(set(source.palette))


def test_scale_shrinks_images_by_area_and_labels_by_nearest(folder, config):
    sample = source_from_config(config([dict(type="LoadPair", scale=(5, 4))]))[2]
    image = np.asarray(Image.open(folder / "images/test/img_2.png")).astype(float)
    label = np.asarray(Image.open(folder / "labels/test/img_2.png"))
    mean = image.reshape(4, 2, 5, 2, 3).mean((1, 3))
    assert np.abs(sample.image.permute(1, 2, 0).numpy() * 255 - mean).max() <= 0.5 + 1e-3
    assert np.array_equal(sample.label.numpy(), label[::2, ::2])


def test_labels_follow_a_pipeline_that_resizes_the_image_alone(folder, config):
    steps = [PLAIN_MMSEG[0], dict(type="Resize", scale=(20, 16)), PLAIN_MMSEG[1]]
    sample = source_from_config(config(steps))[1]
    label = np.asarray(Image.open(folder / "labels/test/img_1.png"))
    assert sample.image.shape == (3, 16, 20)
    assert np.array_equal(sample.label.numpy(), label.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("total, count, expected", [
    (7, None, list(range(7))), (7, 7, list(range(7))), (7, 9, list(range(7))), (7, 1, [3]), (7, 3, [1, 3, 5]),
    (233, 2, [58, 174]), (100, 4, [12, 37, 62, 87]),
])  # fmt: skip
def test_evenly_spaced(total, count, expected):
    assert evenly_spaced(total, count) == expected


@pytest.mark.parametrize(
    ("count", "known", "expected"),
    [
        (2, [], [2, 7]),
        (4, [2, 7], [2, 7, 3, 8]),
        (2, [5], [5, 2]),
        (None, [2, 7], [2, 7, 0, 1, 3, 4, 5, 6, 8, 9]),
        (1, [2, 7], [2, 7]),
        (10, [12, 9], [9, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (3, list(range(10)), list(range(10))),
    ],
)
def test_images_of_a_run_are_kept_and_others_put_between(count, known, expected):
    assert spaced_around(10, count, known) == expected


def test_num_images_takes_those(config):
    source = source_from_config(config(), num_images=3)
    assert [source[i].name for i in range(len(source))] == ["img_1", "img_3", "img_5"]
    with pytest.raises(UserError, match="at least 1, got 0"):
        source_from_config(config(), num_images=0)


def test_palette_images_give_their_indices(folder, config):
    for kind in ("images", "labels"):
        shutil.rmtree(folder / kind)
    ids = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    write_pair(folder, "a", np.zeros((1, 4, 3), dtype=np.uint8), ids)
    palette = Image.fromarray(ids).convert("P")
    palette.putdata(ids.ravel().tolist())
    palette.putpalette([7, 7, 7] * 256)
    palette.save(folder / "labels/test/a.png")
    assert source_from_config(config())[0].label.tolist() == [[0, 1, 2, 255]]


def test_an_images_digest_follows_every_byte_of_its_files(folder, config):
    source = source_from_config(config())
    before = [source.sha256(index) for index in range(len(source))]
    assert [name for name, _ in before] == [source[index].name for index in range(len(source))]
    assert len({digest for _, digest in before}) == len(source) and len(before[0][1]) == 64
    label = folder / "labels/test/img_4.png"
    data = bytearray(label.read_bytes())
    data[-20] ^= 1
    label.write_bytes(data)
    after = [source_from_config(config()).sha256(index) for index in range(len(source))]
    assert [one == other for one, other in zip(before, after, strict=True)] == [n != 4 for n in range(len(source))]


def test_the_recipe_follows_how_images_are_loaded(config):
    before = source_from_config(config()).recipe
    assert before == source_from_config(config(), num_images=3).recipe and len(before) == 64
    assert source_from_config(config([dict(type="LoadPair", scale=(5, 4))])).recipe != before


def test_a_data_set_of_mmseg_is_a_source_by_itself(folder, config):
    from segrobust import ImageLabelFolder

    def of(**options):
        return checked_source(ImageLabelFolder(str(folder), metainfo=dict(classes=CLASSES), split="test", **options))

    own, same = of(), source_from_config(config())
    assert len(own) == len(same) == 7 and own.class_names == same.class_names
    assert torch.equal(own[3].image, same[3].image) and torch.equal(own[3].label, same[3].label)
    assert own.original_label(3).shape == (8, 10)
    assert own.recipe == of().recipe and len(own.recipe) == 64 and own.sha256(3) == same.sha256(3)
    small = [dict(type="LoadPair", scale=(5, 4)), dict(type="PackSegInputs")]
    assert of(pipeline=small)[0].image.shape == (3, 4, 5) and of(pipeline=small).recipe != own.recipe
    flips = [dict(type="LoadPair"), dict(type="RandomFlip", prob=0.5), dict(type="PackSegInputs")]
    with pytest.raises(UserError, match="RandomFlip, which changes images by chance"):
        of(pipeline=flips)


def test_a_config_without_test_data():
    with pytest.raises(UserError, match=r"no test data; set test_dataloader"):
        source_from_config(dict(model=dict()))


def test_unknown_split(config):
    with pytest.raises(UserError, match="split: expected one of val, test, got 'train'"):
        source_from_config(config(), split="train")


def broken(folder, image=None, label=None):
    image = np.zeros((8, 10, 3), dtype=np.uint8) if image is None else image
    write_pair(folder, "img_0", image, np.zeros((8, 10), dtype=np.uint8) if label is None else label)


LABELS = {
    r"holds the id 7 \(80 pixels out of range\); expected 0\.\.2 or 255": np.full((8, 10), 7, np.uint8),
    r"3 channels": np.zeros((8, 10, 3), np.uint8),
    r"8x9 \(height x width\) but its image is 8x10": np.zeros((8, 9), np.uint8),
    r"holds the id 300": np.full((8, 10), 300, np.uint16),
}


@pytest.mark.parametrize("message", LABELS)
def test_wrong_labels_name_the_file(folder, config, message):
    broken(folder, label=LABELS[message])
    with pytest.raises(UserError, match=message) as caught:
        source_from_config(config())[0]
    assert "labels/test/img_0.png" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [np.full((8, 10), 7, np.uint8), np.zeros((8, 10, 3), np.uint8)], ids=["id", "3-D"])
def test_wrong_labels_under_mmsegs_own_loading(folder, config, label):
    broken(folder, label=label)
    with pytest.raises(UserError, match=r"labels/test/img_0\.png"):
        source_from_config(config(PLAIN_MMSEG))[0]


@pytest.mark.parametrize("steps", [None, PLAIN_MMSEG], ids=["LoadPair", "mmseg"])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_file_that_is_no_image(folder, config, steps, kind):
    (folder / kind / "test/img_3.png").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"img_3\.png") as caught:
        source_from_config(config(steps))[3]
    assert "\n" not in str(caught.value)


def test_a_truncated_image(folder, config):
    path = folder / "images/test/img_3.png"
    path.write_bytes(path.read_bytes()[:120])
    with pytest.raises(UserError, match=r"img_3\.png is not a readable image"):
        source_from_config(config())[3]


def test_a_missing_label(folder, config):
    (folder / "labels/test/img_5.png").unlink()
    with pytest.raises(UserError, match=r"no label for .*img_5\.png; expected .*labels/test/img_5\.png"):
        source_from_config(config())


def test_missing_folders(folder, config):
    with pytest.raises(UserError, match=r"data root .*nowhere is not a folder"):
        source_from_config(config(data_root=str(folder / "nowhere")))
    with pytest.raises(UserError, match=r"images/day is missing"):
        source_from_config(config(split="day"))


def test_an_empty_folder(folder, config):
    for path in (folder / "images/test").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no image in "):
        source_from_config(config())


def test_a_pipeline_without_labels(config):
    with pytest.raises(UserError, match="loads no labels"):
        source_from_config(config([PLAIN_MMSEG[0]]))[0]


def test_an_unknown_dataset_type(config):
    with pytest.raises(UserError, match="cannot open the data set 'Nothing'"):
        source_from_config(config(type="Nothing"))


@pytest.mark.parametrize("content, message", [
    (None, "classes.json is missing"), ("{", "is not JSON"), ('{"classes": []}', "at least one name"),
    ('{"classes": ["a", "b"], "palette": [[0, 0, 0]]}', "2 classes but 1 palette colours"),
])  # fmt: skip
def test_classes_json(folder, config, content, message):
    if content is not None:
        (folder / "classes.json").write_text(content)
    with pytest.raises(UserError, match=message):
        source_from_config(config(metainfo=None))
