"""What label files hold is counted once: the cache knows its files, and says when they are others."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from segrobust.datasets.tally import Cache, Tally, cache_folder, count
from tests.datasets.conftest import write_pair


@pytest.fixture
def pairs(tmp_path):
    """Five pairs, of 8 and 16 bits and of two sizes."""
    rng = np.random.default_rng(0)
    for number in range(5):
        size = (8, 10 + 2 * (number == 4))
        label = rng.choice([0, 1, 255, 300] if number == 2 else [0, 1, 255], size)
        label = label.astype(np.uint16 if number == 2 else np.uint8)
        write_pair(tmp_path, str(number), rng.integers(0, 256, (*size, 3), dtype=np.uint8), label)
    return [(tmp_path / f"images/test/{number}.png", tmp_path / f"labels/test/{number}.png") for number in range(5)]


def nothing():
    pass


def test_sums_are_those_of_the_files(pairs):
    advanced = []
    tally = count(pairs, True, lambda: advanced.append(1))
    labels = [np.asarray(Image.open(label)) for _, label in pairs]
    for one in (0, 1, 255, 300):
        assert tally.pixels[one] == sum(int((label == one).sum()) for label in labels)
        assert tally.labels[one] == sum((label == one).any() for label in labels)
    assert set(tally.pixels) == {0, 1, 255, 300} and tally.first[300] == "2.png" and tally.first[0] == "0.png"
    assert tally.sizes == {(8, 10): 4, (8, 12): 1} and len(advanced) == 5 and not tally.problems


def test_files_that_are_none_are_named_in_order(pairs):
    pairs[1][0].write_bytes(b"no image")
    pairs[3][1].write_bytes(b"no label")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(pairs[4][1])
    problems = count(pairs, True, nothing).problems
    assert [one.split(" is ")[0] for one in problems] == [f"image {pairs[1][0]}", f"label {pairs[3][1]}",
                                                          f"label {pairs[4][1]}"]  # fmt: skip
    assert "is 4x5 (height x width) but its image is 8x12" in problems[2]
    assert len(count(pairs, False, nothing).problems) == 1


def test_a_cache_gives_back_what_was_counted(pairs, tmp_path):
    tally, cache = count(pairs, False, nothing), Cache(tmp_path / "cache", "here", pairs)
    assert cache.read(False) is None
    cache.keep(tally)
    assert Cache(tmp_path / "cache", "here", pairs).read(False) == tally
    assert Cache(tmp_path / "cache", "here", pairs).read(True) is None  # no image was read for it
    assert Cache(tmp_path / "cache", "elsewhere", pairs).read(False) is None
    with_images = count(pairs, True, nothing)
    cache.keep(with_images)
    assert cache.read(True) == cache.read(False) == with_images


@pytest.mark.parametrize("change", ["content", "time", "one more", "name"])
def test_changed_files_are_noticed(change, pairs, tmp_path, caplog):
    cache = Cache(tmp_path / "cache", "here", pairs)
    cache.keep(count(pairs, False, nothing))
    image, label = pairs[3]
    if change == "content":
        label.write_bytes(label.read_bytes() + b"\0")
        os.utime(label, ns=(1, 1))
    elif change == "time":
        os.utime(label, ns=(1, 1))
    elif change == "one more":
        pairs = [*pairs, pairs[0]]
    else:
        pairs = [*pairs[:3], (image, label.rename(label.with_name("x.png"))), pairs[4]]
    assert Cache(tmp_path / "cache", "here", pairs).read(False) is None
    assert "files have changed since their labels were counted" in caplog.text


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"identity": 1, "ids": 3, "sizes": [], "images": true}'])
def test_a_damaged_cache_is_made_anew(content, pairs, tmp_path, caplog):
    cache = Cache(tmp_path / "cache", "here", pairs)
    cache.keep(count(pairs, False, nothing))
    cache.file.write_text(content)
    assert cache.read(False) is None and "cannot be read" in caplog.text
    cache.keep(count(pairs, False, nothing))
    assert cache.read(False).sizes == {(8, 10): 4, (8, 12): 1}


def test_what_is_not_kept(pairs, tmp_path, caplog):
    none = Cache(None, "here", pairs)
    none.keep(count(pairs, False, nothing))
    assert none.read(False) is None
    pairs[0][1].write_bytes(b"")
    cache = Cache(tmp_path / "cache", "here", pairs)
    cache.keep(count(pairs, False, nothing))
    assert not cache.file.exists()
    (tmp_path / "file").touch()
    Cache(tmp_path / "file" / "cache", "here", pairs).keep(Tally())
    assert "SEGROBUST_CACHE names another folder" in caplog.text


def test_where_caches_lie(monkeypatch, tmp_path):
    monkeypatch.delenv("SEGROBUST_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "segrobust"
    monkeypatch.setenv("SEGROBUST_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
