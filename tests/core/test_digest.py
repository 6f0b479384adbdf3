"""Equal settings have equal digests, whatever their order and the place of the files they name."""

from __future__ import annotations

from functools import partial

import pytest

from segrobust.core.digest import config_sha256

MODEL = {"type": "EncoderDecoder", "test_cfg": {"mode": "whole"}, "init_cfg": {"checkpoint": "/here/x.pth"}}


def test_order_kind_of_sequence_and_places_do_not_matter():
    other = {"init_cfg": None, "test_cfg": {"mode": "whole"}, "type": "EncoderDecoder"}
    assert config_sha256(MODEL) == config_sha256(other)
    assert config_sha256({"scale": (2, 3), "data_root": "a"}) == config_sha256({"scale": [2, 3], "data_root": "b"})


def test_of_a_function_in_a_file_the_folder_does_not_matter_and_of_other_text_it_does():
    assert config_sha256({"factory": "a/b.py:f"}) == config_sha256({"factory": "/c/b.py:f"})
    assert config_sha256({"factory": "a/b.py:f"}) != config_sha256({"factory": "a/b.py:g"})
    assert config_sha256({"arch": "a/b"}) != config_sha256({"arch": "c/b"})


@pytest.mark.parametrize("changed", [{"test_cfg": {"mode": "slide"}}, {"type": "Other"}, {"more": None}])
def test_settings_do(changed):
    assert config_sha256(MODEL) != config_sha256(MODEL | changed)


def test_types_count_by_name_and_objects_without_their_address():
    assert config_sha256({"type": dict}) != config_sha256({"type": list})
    assert config_sha256(object()) == config_sha256(object())
    assert config_sha256(partial(int, base=2)) != config_sha256(partial(int, base=3))
