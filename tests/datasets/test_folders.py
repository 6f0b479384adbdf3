"""A folder of images and labels: which split is measured, and what is told where that is not known."""

from __future__ import annotations

import pytest

from segrobust.core.errors import UserError
from segrobust.datasets.folders import folder_data


def made(root, *splits: str):
    for kind in ("images", "labels"):
        for split in splits:
            (root / kind / split).mkdir(parents=True)
            (root / kind / split / "0.png").touch()
    return root


@pytest.mark.parametrize(
    ("splits", "asked", "measured", "others"),
    [
        (("train", "val", "test"), None, "test", {"train", "val"}),
        (("train", "val"), None, "val", {"train"}),
        (("mine",), None, "mine", set()),
        (("",), None, "", set()),
        (("", "test"), None, "", set()),
        (("train", "val", "test"), "val", "val", {"train"}),
        (("a", "b"), "b", "b", set()),
    ],
)
def test_the_split_that_is_measured_and_those_beside_it(splits, asked, measured, others, tmp_path):
    data = folder_data(made(tmp_path, *splits), asked)
    assert set(data) == {"test_dataloader", *(f"{name}_dataloader" for name in others)}
    assert data["test_dataloader"]["dataset"]["split"] == measured
    assert {data[f"{name}_dataloader"]["dataset"]["split"] for name in others} == others


def test_names_and_void_are_those_that_are_given(tmp_path):
    made(tmp_path, "test")
    plain = folder_data(tmp_path)["test_dataloader"]["dataset"]
    assert "metainfo" not in plain and plain["ignore_index"] == 255 and plain["data_root"] == str(tmp_path)
    told = folder_data(tmp_path, class_names=["a", "b"], ignore_index=11)["test_dataloader"]["dataset"]
    assert told["metainfo"] == {"classes": ("a", "b")} and told["ignore_index"] == 11


def test_what_is_missing_is_asked_for_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder of data"):
        folder_data(tmp_path / "no")
    (tmp_path / "img").mkdir()
    with pytest.raises(UserError, match="images and labels missing, found img"):
        folder_data(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="labels missing, found images, img"):
        folder_data(tmp_path)
    (tmp_path / "labels").mkdir()
    with pytest.raises(UserError, match="images: expected images, or sub-folders"):
        folder_data(tmp_path)
    made(tmp_path, "a", "b")
    with pytest.raises(UserError, match=r"which of a, b is to be measured\? Say split="):
        folder_data(tmp_path)
    with pytest.raises(UserError, match="unknown split 'c'; known: a, b"):
        folder_data(tmp_path, "c")
