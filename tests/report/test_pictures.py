import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.core.errors import UserError
from segrobust.report.pictures import CHANGES, KINDS, change_map, colour_map, read_grid, write_grid

PALETTE = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]


def entry(side=2, **more):
    image = torch.full((3, side, side), 0.25)
    change = torch.zeros(3, side, side)
    change[0, 0, 0], change[1, 0, 1] = 0.02, -0.01
    base = {
        "rule": "worst", "image_id": 7, "name": "../../etc/passwd", "attack": "CEPGD", "eps": 0.02,
        "image": image, "adversarial": image + change,
        "label": torch.tensor([[0, 1], [2, 255]]),
        "before": torch.tensor([[0, 1], [0, 2]]),
        "after": torch.tensor([[0, 2], [1, 0]]),
    }  # fmt: skip
    return {**base, **more}


def decoded(uri):
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGB"))


def test_every_picture_has_the_right_pixels(tmp_path):
    (written,) = write_grid(tmp_path / "images", [entry()], PALETTE)
    pictures = {kind: np.array(Image.open(tmp_path / "images" / written["files"][kind])).tolist() for kind in KINDS}
    assert pictures["image"] == [[[64] * 3] * 2] * 2
    assert pictures["perturbation"] == [[[255, 128, 128], [128, 64, 128]], [[128] * 3] * 2]
    assert pictures["truth"] == [[PALETTE[0], PALETTE[1]], [PALETTE[2], [0, 0, 0]]]
    assert pictures["before"] == [[PALETTE[0], PALETTE[1]], [PALETTE[0], PALETTE[2]]]
    assert pictures["after"] == [[PALETTE[0], PALETTE[2]], [PALETTE[1], PALETTE[0]]]
    wanted = ("unchanged, right", "right before, wrong after"), ("wrong before, wrong otherwise after", "void")
    assert pictures["changed"] == [[list(CHANGES[name]) for name in row] for row in wanted]


def test_the_numbers_for_the_captions(tmp_path):
    (written,) = write_grid(tmp_path, [entry()], PALETTE)
    assert written["max_perturbation"] == pytest.approx(0.02, abs=1e-7)
    assert written["factor"] == pytest.approx(25, abs=1e-3)
    assert written["aAcc_before"] == pytest.approx(200 / 3, abs=1e-4)
    assert written["aAcc_after"] == pytest.approx(100 / 3, abs=1e-4)
    assert (written["rule"], written["image"], written["attack"], written["eps"]) == ("worst", 7, "CEPGD", 0.02)
    assert json.loads((tmp_path / "grid.json").read_text()) == [written]


def test_all_kinds_of_change_have_their_colour():
    label = torch.tensor([[0, 0, 0, 0, 0, 255]])
    before = torch.tensor([[0, 0, 1, 1, 1, 0]])
    after = torch.tensor([[0, 1, 0, 2, 1, 1]])
    wanted = ["unchanged, right", "right before, wrong after", "wrong before, right after"]
    wanted += ["wrong before, wrong otherwise after", "unchanged, wrong", "void"]
    assert change_map(before, after, label, label == 255)[0].tolist() == [list(CHANGES[name]) for name in wanted]


def test_void_may_be_any_value(tmp_path):
    label = torch.tensor([[0, 1], [2, -1]])
    write_grid(tmp_path, [entry(label=label)], PALETTE, ignore_index=-1)
    assert np.array(Image.open(tmp_path / "00-truth.png"))[1, 1].tolist() == [0, 0, 0]
    assert colour_map(torch.tensor([[2]]), PALETTE)[0, 0].tolist() == PALETTE[2]


def test_no_perturbation_is_plain_grey(tmp_path):
    same = entry()
    (written,) = write_grid(tmp_path, [{**same, "adversarial": same["image"]}], PALETTE)
    assert (written["factor"], written["max_perturbation"]) == (None, 0.0)
    assert set(np.array(Image.open(tmp_path / "00-perturbation.png")).ravel()) == {128}


def test_an_image_of_void_alone_has_no_accuracy(tmp_path):
    (written,) = write_grid(tmp_path, [entry(label=torch.full((2, 2), 255))], PALETTE)
    assert (written["aAcc_before"], written["aAcc_after"]) == (None, None)


def test_names_from_the_data_never_become_paths(tmp_path):
    write_grid(tmp_path / "run/images", [entry(), entry(rule="/tmp/x")], PALETTE)  # noqa: S108
    assert [p for p in tmp_path.rglob("*.png") if p.parent != tmp_path / "run/images"] == []
    assert sorted(p.name for p in tmp_path.rglob("*.png"))[:2] == ["00-after.png", "00-before.png"]


def test_reading_gives_the_written_pixels_back(tmp_path):
    assert read_grid(tmp_path) == []
    write_grid(tmp_path, [entry()], PALETTE)
    (read,) = read_grid(tmp_path)
    assert list(read["pictures"]) == list(KINDS)
    for kind in KINDS:
        assert decoded(read["pictures"][kind]).tolist() == np.array(Image.open(tmp_path / f"00-{kind}.png")).tolist()


def test_photographs_become_jpeg_and_large_pictures_smaller(tmp_path):
    write_grid(tmp_path, [entry()], PALETTE)
    noise = np.random.default_rng(0).integers(0, 255, (90, 1280, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "00-image.png")
    Image.fromarray(np.repeat(noise[:1, :2], 640, axis=1)).save(tmp_path / "00-truth.png")
    (read,) = read_grid(tmp_path)
    assert read["pictures"]["image"].startswith("data:image/jpeg;")
    assert decoded(read["pictures"]["image"]).shape == (45, 640, 3)
    assert read["pictures"]["truth"].startswith("data:image/png;")
    assert decoded(read["pictures"]["truth"])[0, [0, 639]].tolist() == noise[0, :2].tolist()


def with_chunk(png, kind, content):
    """The file with another chunk before its end, whole by its checksum."""
    end = len(png) - 12
    return (
        png[:end]
        + struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        + png[end:]
    )


def small_png():
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"<svg onload='alert(1)'/>",
        b"\x89PNG\r\n\x1a\nbroken",
        b"",
        None,
        with_chunk(small_png(), b"pHYs", b"short"),  # PIL: ValueError
        with_chunk(small_png(), b"iCCP", b"\0"),  # PIL: IndexError
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, content):
    write_grid(tmp_path, [entry()], PALETTE)
    (tmp_path / "00-truth.png").unlink()
    if content is not None:
        (tmp_path / "00-truth.png").write_bytes(content)
    with pytest.raises(UserError, match=r"00-truth\.png: not a readable PNG"):
        read_grid(tmp_path)


def test_pictures_outside_the_folder_are_refused(tmp_path):
    folder = tmp_path / "images"
    write_grid(folder, [entry()], PALETTE)
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    grid = json.loads((folder / "grid.json").read_text())
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        grid[0]["files"]["truth"] = name
        (folder / "grid.json").write_text(json.dumps(grid))
        with pytest.raises(UserError, match="not a file of this folder"):
            read_grid(folder)
    (folder / "00-after.png").unlink()
    (folder / "00-after.png").symlink_to(tmp_path / "secret.png")
    grid[0]["files"]["truth"] = "00-truth.png"
    (folder / "grid.json").write_text(json.dumps(grid))
    with pytest.raises(UserError, match="not a file of this folder"):
        read_grid(folder)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"files": {}}]', '{"a": 1}'])
def test_a_damaged_grid_is_a_clear_error(tmp_path, content):
    (tmp_path / "grid.json").write_text(content)
    with pytest.raises(UserError, match=r"grid\.json: not a picture grid"):
        read_grid(tmp_path)
