"""TIFFs that PIL does not decode are refused by what they are, not as damaged files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from segrobust.core.errors import UserError
from segrobust.datasets.files import read_image, read_label


@pytest.mark.parametrize(("kind", "shape", "told"), [
    (np.float32, (4, 5, 3), r"3 x 32 bits, float"),
    (np.float64, (4, 5), r"1 x 64 bits, float"),
    (np.uint32, (4, 5, 3), r"3 x 32 bits, unsigned"),
])  # fmt: skip
def test_what_the_tiff_holds_is_told(kind, shape, told, tmp_path):
    path = str(tmp_path / "a.tif")
    assert cv2.imwrite(path, np.ones(shape, kind))
    for read, name in ((read_image, "image"), (read_label, "label")):
        with pytest.raises(
            UserError, match=rf"{name} {path} is not a readable image \(a TIFF of {told}\); save it with 8"
        ):
            read(path)
        with pytest.raises(UserError, match=told):
            read(path, (tmp_path / "a.tif").read_bytes())


@pytest.mark.parametrize(("kind", "kept"), [(np.float32, 12), (np.uint8, -8)])
def test_a_damaged_tiff_is_called_unreadable_alone(kind, kept, tmp_path):
    path = tmp_path / "a.tif"
    assert cv2.imwrite(str(path), np.ones((4, 5, 3), kind))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"is not a readable image \(\w+\)$"):
        read_image(path)
