"""A finished run takes more conditions and images, computes what is missing alone, and never another result."""

from __future__ import annotations

import json

import pytest

from segrobust.core.errors import UserError
from segrobust.core.rows import Condition
from segrobust.runs.folder import RunFolder
from segrobust.runs.images import RunImages

ENTRIES = [{"name": f"scene {i}", "sha256": f"{i:064d}"} for i in range(8)]


def test_images_are_added_behind_those_that_are_there(tmp_path):
    images, order = RunImages().grown(ENTRIES[2:5], tmp_path)
    assert order == [0, 1, 2] and images.batches(2) == [range(0, 2), range(2, 3)]
    images, order = images.grown(ENTRIES, tmp_path)
    assert order == [2, 3, 4, 0, 1, 5, 6, 7]
    assert images.batches(2) == [range(0, 2), range(2, 3), range(3, 5), range(5, 7), range(7, 8)]
    assert images.grown(ENTRIES, tmp_path)[0] == images
    assert RunImages.from_content(json.loads(json.dumps(images.content())), tmp_path) == images


def test_equal_images_are_told_apart_by_their_order(tmp_path):
    twice = [ENTRIES[0], ENTRIES[1], ENTRIES[0]]
    images, order = RunImages().grown(twice, tmp_path)
    assert order == [0, 1, 2] and images.grown(twice, tmp_path) == (images, [0, 1, 2])


@pytest.mark.parametrize(
    "content",
    [
        {"starts": [0], "images": [{**ENTRIES[0], "index": "0"}]},
        {"starts": ["0"], "images": ENTRIES},
        {"starts": [0], "images": [{"name": "scene 0"}]},
    ],
)
def test_a_damaged_list_is_told(tmp_path, content):
    with pytest.raises(UserError, match="expected the images of a run, as segrobust writes them"):
        RunImages.from_content(content, tmp_path)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (ENTRIES[1:], "its image 'scene 0' is not among these data; a run may get more images"),
        ([{**ENTRIES[0], "sha256": "0"}, *ENTRIES[1:]], "its image 'scene 0' is another one in these data"),
    ],
)
def test_an_image_of_the_run_may_not_go(tmp_path, given, told):
    images, _ = RunImages().grown(ENTRIES, tmp_path)
    with pytest.raises(UserError, match=told):
        images.grown(given, tmp_path)


def test_a_condition_keeps_its_name_and_order(tmp_path):
    far = Condition("attack", "CEPGD", norm="Linf", eps=0.2, fields={"steps": 3})
    near = Condition("attack", "CEPGD", norm="Linf", eps=0.1, fields={"steps": 3})
    folder = RunFolder(tmp_path)
    folder.open({}, [far], ENTRIES)
    (tmp_path / "summary.json").write_text("[]")  # a finished run
    again = Condition("attack", "other name", norm="Linf", eps=0.2, fields={"steps": 3})
    folder.open({}, [again, near, Condition("clean", "clean")], ENTRIES)
    assert [(one.study, one.name, one.eps) for one in folder.conditions()] == [
        ("clean", "clean", None),
        ("attack", "CEPGD", 0.1),
        ("attack", "CEPGD", 0.2),
    ]
