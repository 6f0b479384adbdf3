"""Small image files of every kind, as a dictionary of functions that write one file each."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
from PIL import Image

SIZE = (6, 8)
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, SIZE, dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (*SIZE, 3), dtype=np.uint16)
DEEP[0, 0] = 65535
DARK = np.minimum(DEEP[..., 0] // 4, 16383) + np.uint16(1)  # up to 16384, just above what 14 bits hold


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


def _deep_png_grey_alpha(path):
    pixels = np.stack([DEEP[..., 0], np.full(SIZE, 65535)], -1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 16, 4, 0, 0, 0)
    chunks = (b"IHDR" + head, b"IDAT" + zlib.compress(rows), b"IEND")
    parts = (struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def _bmp_565() -> bytes:
    """White in 16 bits per pixel, which are not 16 per channel."""
    height, width = SIZE
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3, 2 * width * height, 0, 0, 0, 0)
    pixels = b"\xff\xff" * width * height
    start = 14 + len(head) + len(masks)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + masks + pixels


def _deep_png_with_transparent_colour(path):
    """PIL and OpenCV cannot write it: the chunk is put in by hand before the pixels."""
    Image.fromarray(DEEP[..., 0]).save(path)
    data = path.read_bytes()
    at = data.index(b"IDAT") - 4
    chunk = b"tRNS" + struct.pack(">H", int(DEEP[0, 1, 0]))
    path.write_bytes(data[:at] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at:])


PALETTE = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]], np.uint8)

# suffix, how to write it, the RGB pixels that it means
READ = {
    "8-bit RGB": ("png", lambda p: Image.fromarray(RGB).save(p), RGB),
    "8-bit grey": ("png", lambda p: Image.fromarray(GREY).save(p), grey_rgb(GREY)),
    "1-bit": ("png", lambda p: Image.fromarray(GREY > 127).save(p), grey_rgb((GREY > 127) * np.uint8(255))),
    "4-bit grey": ("png", lambda p: Image.fromarray(GREY % 16).save(p, bits=4), grey_rgb(GREY % 16 * 17)),
    "5, 6 and 5 bits": ("bmp", lambda p: p.write_bytes(_bmp_565()), grey_rgb(np.full(SIZE, 255, np.uint8))),
    "opaque 16-bit grey and alpha": ("png", lambda p: _deep_png_grey_alpha(p), grey_rgb(eight(DEEP[..., 0]))),
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
    "dark 16-bit": ("png", lambda p: Image.fromarray(DARK).save(p), grey_rgb(eight(DARK))),
    "black 16-bit": ("png", lambda p: Image.fromarray(DARK * np.uint16(0)).save(p), grey_rgb(np.zeros(SIZE, np.uint8))),
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
    "16-bit transparent colour": ("png", lambda p: _deep_png_with_transparent_colour(p), "16 bits and a transparent"),
    "12 bits in 16, grey": ("png", lambda p: Image.fromarray(DEEP[..., 0] // 16).save(p), "brightest value is 4095"),
    "14 bits in 16, grey": ("png", lambda p: Image.fromarray(DEEP[..., 0] // 4).save(p), "brightest value is 16383"),
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
