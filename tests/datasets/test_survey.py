"""The look at a few samples before a run: nothing to measure, masks of 0 and 255, sizes, and the order of classes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from segrobust.commands.data import source_from_config
from segrobust.core.errors import UserError
from segrobust.datasets.classes import check_class_order
from segrobust.datasets.survey import survey
from segrobust.models.checkpoint.reading import stored_class_names

from .conftest import CLASSES, write_pair


def labelled(folder, *labels):
    for kind in ("images", "labels"):
        shutil.rmtree(folder / kind)
    for number, label in enumerate(labels):
        label = np.asarray(label, dtype=np.uint8)
        write_pair(folder, f"img_{number:02}", np.zeros((*label.shape, 3), np.uint8), label)


def test_void_alone_cannot_be_measured(folder, config):
    labelled(folder, *[[[255, 255]]] * 12)
    with pytest.raises(UserError, match=r"nothing can be measured: every pixel of all 12 labels is void \(255\)"):
        survey(source_from_config(config()))


def test_one_labelled_pixel_anywhere_is_enough(folder, config):
    labels = [[[255, 255]]] * 12
    labelled(folder, *labels)
    write_pair(folder, "img_02", np.zeros((1, 2, 3), np.uint8), np.array([[255, 1]], np.uint8))  # not looked at first
    assert survey(source_from_config(config())).warnings == ()


def test_masks_of_0_and_255(folder, config):
    labelled(folder, [[0, 0]], [[0, 255]], [[255, 255]])
    (warning,) = survey(source_from_config(config())).warnings
    assert warning.startswith("only class 0 (road) and void (255) occur in 3 labels looked at: is 255 the foreground?")


def test_masks_of_1_and_255_of_two_classes(folder, config):
    labelled(folder, [[1, 255]])
    (warning,) = survey(source_from_config(config(metainfo=dict(classes=("ground", "object"))))).warnings
    assert warning.startswith("only class 1 (object) and void (255) occur in 1 labels looked at: is 255 the background")


@pytest.mark.parametrize("labels", [([[0, 0]],), ([[0, 255]], [[1, 255]]), ([[1, 255]],)])
def test_other_labels_need_no_word(folder, config, labels):
    labelled(folder, *labels)
    assert survey(source_from_config(config())).warnings == ()


@pytest.mark.parametrize("steps, text", [
    (None, "attacked and measured at 8x10 (height x width), the size after the test pipeline"),
    ([dict(type="LoadPair", scale=(5, 4))],
     "attacked and measured at 4x5 (height x width), the size after the test pipeline; the image files are 8x10"),
    ([dict(type="LoadImageFromFile"), dict(type="Resize", scale=(5, 4)), dict(type="LoadAnnotations")],
     "attacked and measured at 4x5 (height x width), the size after the test pipeline; the image files are 8x10"),
])  # fmt: skip
def test_sizes_of_attack_and_metric(config, steps, text):
    assert survey(source_from_config(config(steps))).sizes == text


def test_several_sizes(folder, config):
    labelled(folder, [[0, 0]], [[0], [0]])
    assert "at 1x2 and other sizes (" in survey(source_from_config(config())).sizes


def test_the_same_classes_in_another_order_are_refused():
    with pytest.raises(UserError, match="those of the model reversed: class 0 is 'Road' in the data and 'car' in"):
        check_class_order(("Road", "traffic_light", "car"), ("car", "traffic light", "road"), "the model")
    with pytest.raises(UserError, match="those of x in another order: class 1 is 'b' in the data and 'c' in x"):
        check_class_order(("a", "b", "c"), ("a", "c", "b"), "x")


@pytest.mark.parametrize("other", [("road", "TREE", "car"), ("class_0", "class_1", "class_2"), ("0", "1"), ()])
def test_names_that_agree_or_say_nothing(other, caplog):
    check_class_order(CLASSES, other, "x")
    assert not caplog.records


def test_other_names_are_warned_of(caplog):
    check_class_order(CLASSES, ("road", "bush", "car"), "the checkpoint")
    assert "otherwise than the checkpoint its 3 ('tree', for one, is no class there)" in caplog.text


def test_classes_json_and_metainfo_in_another_order(folder, config):
    (folder / "classes.json").write_text('{"classes": ["car", "tree", "road"]}')
    with pytest.raises(UserError, match=r"those of .*classes\.json reversed"):
        source_from_config(config())


@pytest.mark.parametrize("meta, names", [
    (dict(dataset_meta=dict(classes=("a", "b"))), ("a", "b")), (dict(CLASSES=["a", "b"]), ("a", "b")),
    (dict(dataset_meta=None), ()), (dict(dataset_meta=dict(classes="file.txt")), ()), ("text", ()), (None, ()),
])  # fmt: skip
def test_what_a_checkpoint_notes_of_its_classes(tmp_path, meta, names):
    torch.save(dict(state_dict=dict(a=torch.zeros(1)), **({} if meta is None else dict(meta=meta))), tmp_path / "x.pth")
    assert stored_class_names(tmp_path / "x.pth") == names


def test_safetensors_note_no_classes(tmp_path):
    from safetensors.torch import save_file

    save_file(dict(a=torch.zeros(1)), tmp_path / "x.safetensors")
    assert stored_class_names(tmp_path / "x.safetensors") == ()
