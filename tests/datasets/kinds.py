"""Small image files of every kind, as a dictionary of functions that write one file each."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

SIZE = (6, 8)
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, SIZE, dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (*SIZE, 3), dtype=np.uint16)
DEEP[0, 0] = 65535


def eight(values: np.ndarray) -> np.ndarray:
    """16 bits to the nearest of 256 levels."""
    return np.rint(values / 65535 * 255).astype(np.uint8)


def grey_rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, 2)


def _turned(orientation: int):
    def write(path):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(RGB).save(path, exif=exif)

    return write


def _opaque(value: int):
    return np.dstack([RGB, np.full(SIZE, value, np.uint8)])


def _palette(path):
    image = Image.fromarray(GREY % 4)
    image = image.convert("P")
    image.putdata((GREY % 4).ravel().tolist())
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    image.save(path)


PALETTE = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]], np.uint8)

# suffix, how to write it, the RGB pixels that it means
READ = {
    "8-bit RGB": ("png", lambda p: Image.fromarray(RGB).save(p), RGB),
    "8-bit grey": ("png", lambda p: Image.fromarray(GREY).save(p), grey_rgb(GREY)),
    "1-bit": ("png", lambda p: Image.fromarray(GREY > 127).save(p), grey_rgb((GREY > 127) * np.uint8(255))),
    "4-bit grey": ("png", lambda p: Image.fromarray(GREY % 16).save(p, bits=4), grey_rgb(GREY % 16 * 17)),
    "palette": ("png", _palette, PALETTE[GREY % 4]),
    "opaque alpha": ("png", lambda p: Image.fromarray(_opaque(255)).save(p), RGB),
    "16-bit grey PNG": ("png", lambda p: Image.fromarray(DEEP[..., 0]).save(p), grey_rgb(eight(DEEP[..., 0]))),
    "16-bit RGB PNG": ("png", lambda p: cv2.imwrite(str(p), DEEP[..., ::-1]), eight(DEEP)),
    "16-bit grey TIFF": ("tif", lambda p: Image.fromarray(DEEP[..., 1]).save(p), grey_rgb(eight(DEEP[..., 1]))),
    "16-bit RGB TIFF": ("tif", lambda p: cv2.imwrite(str(p), DEEP[..., ::-1]), eight(DEEP)),
    "16-bit opaque alpha": (
        "png",
        lambda p: cv2.imwrite(str(p), np.dstack([DEEP[..., ::-1], np.full(SIZE, 65535, np.uint16)])),
        eight(DEEP),
    ),
    "float TIFF": ("tif", lambda p: Image.fromarray(GREY.astype(np.float32) / 255).save(p), grey_rgb(GREY)),
    "orientation 1": ("png", _turned(1), RGB),
    "orientation 0, which no viewer knows": ("png", _turned(0), RGB),
}

# suffix, how to write it, what the refusal says
REFUSED = {
    "transparent": ("png", lambda p: Image.fromarray(_opaque(254)).save(p), "transparent pixels"),
    "transparent colour": ("png", lambda p: Image.fromarray(RGB).save(p, transparency=tuple(map(int, RGB[0, 0]))),
                           "transparent pixels"),
    "16-bit transparent": (
        "png", lambda p: cv2.imwrite(str(p), np.dstack([DEEP, np.full(SIZE, 65534 // 2, np.uint16)])), "transparent"
    ),
    "12 bits in 16, grey": ("png", lambda p: Image.fromarray(DEEP[..., 0] // 16).save(p), "brightest value is 4095"),
    "8 bits in 16, RGB": ("png", lambda p: cv2.imwrite(str(p), DEEP // 256), "brightest value is 255"),
    "floats of 0..255": ("tif", lambda p: Image.fromarray(GREY.astype(np.float32)).save(p), "expected the range 0..1"),
    "floats below 0": ("tif", lambda p: Image.fromarray(GREY / np.float32(255) - 0.5).save(p), "floats from -0.49"),
    "NaN": ("tif", lambda p: Image.fromarray(np.full(SIZE, np.nan, np.float32)).save(p), "floats from nan"),
    "float RGB": ("tif", lambda p: cv2.imwrite(str(p), RGB / np.float32(255)), "not a readable image"),
    "32-bit whole numbers": ("tif", lambda p: Image.fromarray(GREY.astype(np.int32)).save(p), "of the kind I;"),
    "CMYK": ("jpg", lambda p: Image.fromarray(RGB).convert("CMYK").save(p), "of the kind CMYK"),
    "LAB": ("tif", lambda p: Image.fromarray(RGB, mode="LAB").save(p), "of the kind LAB"),
    "two pages": ("tif", lambda p: Image.fromarray(RGB).save(p, save_all=True, append_images=[Image.fromarray(RGB)]),
                  "holds 2 pictures"),
    **{f"orientation {n}, {suffix}": (suffix, _turned(n), rf"EXIF orientation {n}\)")
       for n, suffix in ((3, "jpg"), (6, "jpg"), (2, "png"), (8, "tif"), (5, "webp"))},
}  # fmt: skip
