"""Targets: maps computed by hand, and every wrong mask named."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.commands.data import majority_of_config, source_from_config
from segrobust.core.errors import UserError
from segrobust.datasets.majority import colour_png, id_png, majority_map
from segrobust.datasets.targets import build_target

from .conftest import write_pair

V = 255


def unused():
    raise AssertionError("this target needs no model")


def ids(rows) -> torch.Tensor:
    return torch.tensor(rows)


def test_majority_without_smoothing_by_hand():
    labels = [ids([[0, 1, V], [2, V, V]]), ids([[0, 1, 2], [1, V, 0]]), ids([[1, 0, V], [1, V, 0]])]
    assert majority_map(labels, (2, 3), 3, box=1).tolist() == [[0, 1, 2], [1, V, 0]]
    assert majority_map(labels[1:], (2, 3), 3, box=1)[0, 0] == 0  # a tie goes to the lower class
    assert majority_map([ids([[7, 0]])], (1, 2), 2, ignore_index=7, box=1).tolist() == [[7, 0]]


def test_labels_of_another_size_follow_by_nearest_neighbour():
    assert majority_map([ids([[0, 1], [2, V]])], (4, 4), 3, box=1).tolist() == [
        [0, 0, 1, 1], [0, 0, 1, 1], [2, 2, V, V], [2, 2, V, V],
    ]  # fmt: skip


def test_smoothing_sums_the_counts_of_the_box():
    lonely = torch.zeros(5, 5, dtype=torch.long)
    lonely[2, 2] = 1
    assert majority_map([lonely], (5, 5), 2, box=1)[2, 2] == 1
    assert (majority_map([lonely], (5, 5), 2, box=3) == 0).all()
    counts, size = torch.randint(0, 3, (4, 9, 11), generator=torch.Generator().manual_seed(0)), (9, 11)
    got = majority_map(counts, size, 3, box=5)
    for y, x in ((0, 0), (4, 5), (8, 10), (1, 9)):
        near = counts[:, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].flatten()
        assert got[y, x] == int(torch.bincount(near, minlength=3).argmax())


def test_what_no_label_names_is_void_whatever_lies_around():
    label = torch.zeros(5, 5, dtype=torch.long)
    label[2, 2] = V
    assert majority_map([label], (5, 5), 2, box=3)[2, 2] == V
    assert (majority_map([label], (5, 5), 2, box=3) == V).sum() == 1


@pytest.fixture
def trained(folder, config):
    """A config with two training labels besides the seven test images."""
    image = np.zeros((8, 10, 3), dtype=np.uint8)
    for name, value in (("a", 2), ("b", 2), ("c", 1)):
        label = np.full((8, 10), value, dtype=np.uint8)
        label[:, :5] = 0
        label[0] = V
        write_pair(folder, name, image, label, split="train")
    made = config()
    train = {**made["test_dataloader"]["dataset"], "split": "train", "test_mode": False}
    return {**made, "train_dataloader": dict(dataset=train)}


def test_majority_of_the_configs_training_labels(trained):
    source = source_from_config(trained)
    expected = [[V] * 10] + [[0] * 5 + [2] * 5] * 7
    assert majority_of_config(trained, source).tolist() == expected
    target = build_target("majority", source, lambda: majority_of_config(trained, source))
    assert target([source[0], source[3]], unused).tolist() == [expected, expected]
    assert target.identity()["spec"] == "majority" and len(target.identity()["sha256"]) == 64


def test_majority_is_read_again_from_its_file(trained, tmp_path):
    source = source_from_config(trained)
    target = build_target("majority", source, lambda: majority_of_config(trained, source))
    (tmp_path / "map.png").write_bytes(id_png(target.map))
    again = build_target("majority", source, tmp_path / "map.png")
    assert again.identity() == target.identity()
    assert torch.equal(again([source[0]], unused), target([source[0]], unused))


def test_majority_needs_training_labels_of_the_same_classes(trained, folder):
    source = source_from_config(trained)
    with pytest.raises(UserError, match="set train_dataloader"):
        majority_of_config({"test_dataloader": {}}, source)
    with pytest.raises(UserError, match="needs the map of the training labels"):
        build_target("majority", source)
    trained["train_dataloader"]["dataset"]["metainfo"] = dict(classes=("a", "b", "c"))
    with pytest.raises(UserError, match="other classes"):
        build_target("majority", source, lambda: majority_of_config(trained, source))
    trained["train_dataloader"]["dataset"]["metainfo"] = dict(classes=[n.upper() for n in source.class_names])
    Image.fromarray(np.full((8, 10), 7, dtype=np.uint8)).save(folder / "labels/train/b.png")
    with pytest.raises(UserError, match=r"b\.png holds the id 7"):
        build_target("majority", source, lambda: majority_of_config(trained, source))


def test_pictures_of_a_map():
    ids_map = torch.tensor([[0, 300], [1, V]])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(id_png(ids_map)))), ids_map.numpy())
    small = ids_map.clamp_max(V)
    stored = np.asarray(Image.open(io.BytesIO(id_png(small))))
    assert stored.dtype == np.uint8 and np.array_equal(stored, small.numpy())
    colours = np.asarray(Image.open(io.BytesIO(colour_png(small, [(1, 2, 3), (4, 5, 6)], V))))
    assert colours.tolist() == [[[1, 2, 3], [0, 0, 0]], [[4, 5, 6], [0, 0, 0]]]


@pytest.mark.parametrize(("spec", "number"), [("class:tree", 1), ("class:2", 2), ("background", 0), ("class:0", 0)])
def test_one_class_for_all(config, spec, number):
    source = source_from_config(config())
    target = build_target(spec, source)
    assert target([source[0], source[1]], unused).unique().tolist() == [number]
    assert target.identity() == {"spec": spec, "class": number} and target.map is None


def test_background_is_the_class_of_that_name(config):
    source = source_from_config(config())
    source.class_names = ("road", "Background", "car")
    assert build_target("background", source)([source[0]], unused).unique().tolist() == [1]


def test_least_likely_is_the_lowest_logit(config):
    source = source_from_config(config())
    logits = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    got = build_target("least-likely", source)([source[0], source[1]], lambda: logits)
    assert torch.equal(logits.gather(1, got[:, None])[:, 0], logits.amin(1))


def mask(path, array):
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)
    return f"mask:{path}"


def test_a_mask_for_all_images_and_one_for_each(config, tmp_path):
    source = source_from_config(config())
    both = np.full((8, 10), 2)
    both[0] = V
    target = build_target(mask(tmp_path / "m.png", both), source)
    assert torch.equal(target([source[0]], unused)[0], torch.from_numpy(both))
    assert target.identity()["spec"] == "mask:m.png"  # no folders
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(7):
        mask(masks / f"img_{number}.png", np.full((8, 10), number % 3))
    each = build_target(f"mask:{masks}", source)
    got = each([source[4], source[2]], unused)
    assert got.dtype == torch.int64 and got[:, 0, 0].tolist() == [1, 2]
    before = each.identity()
    mask(masks / "img_6.png", np.full((8, 10), 1))
    assert build_target(f"mask:{masks}", source).identity() != before


def test_wrong_masks_are_named_before_anything_is_attacked(config, tmp_path):
    source = source_from_config(config())
    with pytest.raises(UserError, match=r"mask .*m\.png is 4x4 \(height x width\) but image img_0 is 8x10"):
        build_target(mask(tmp_path / "m.png", np.zeros((4, 4))), source)
    with pytest.raises(UserError, match=r"m\.png holds the id 3 .*expected 0\.\.2 or 255"):
        build_target(mask(tmp_path / "m.png", np.full((8, 10), 3)), source)
    with pytest.raises(UserError, match="3 channels"):
        build_target(mask(tmp_path / "m.png", np.zeros((8, 10, 3))), source)
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(6):
        mask(masks / f"img_{number}.png", np.zeros((8, 10)))
    with pytest.raises(UserError, match=r"img_6\.png is missing"):
        build_target(f"mask:{masks}", source)
    mask(masks / "img_6.png", np.zeros((8, 9)))
    with pytest.raises(UserError, match=r"img_6\.png is 8x9 .* but its image is 8x10"):
        build_target(f"mask:{masks}", source)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("leastlikely", "did you mean least-likely"),
        ("class:", "class:road or class:3"),
        ("class:raod", "did you mean road"),
        ("class:3", "expected 0 to 2"),
        ("class:-1", "unknown class '-1'"),
        ("background:0", "unknown target"),
        ("mask:nowhere.png", "no such mask: 'nowhere.png'"),
    ],
)
def test_wrong_specs(config, spec, words):
    with pytest.raises(UserError, match=words):
        build_target(spec, source_from_config(config()))
