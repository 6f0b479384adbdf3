"""The one reading of image and label files, whatever loads them: converted by their value range, or refused.

Refused, since any reading would be a guess: files that viewers turn (EXIF orientation), transparency, CMYK and other
colour spaces, several pictures in one file, values in an unknown range, and labels in colour or from a JPEG.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from segrobust.core.errors import UserError

_ORIENTATION = 274  # the EXIF tag: 2 to 8 say that viewers turn or mirror the picture
_BITS, _SAMPLE_FORMAT = 258, 339  # of a TIFF
_FORMATS = {1: "unsigned", 2: "signed", 3: "float"}
_EIGHT_BIT_MODES = ("1", "L", "P", "RGB", "RGBA", "LA")
_ONE_PICTURE = ("MPO",)  # a phone's JPEG, whose further pictures are previews
_LEAST_TOP = 2**14  # of 16 bits: below it a camera's 8, 10, 12 or 14 bits are likelier than a picture that is so dark


def read_image(path: str | Path, content: bytes | None = None) -> np.ndarray:
    """The image as RGB uint8 [H, W, 3], from ``content`` where the file's bytes are given.

    Raises:
        UserError: missing, not an image, or one that cannot be read without a guess (see above).
    """
    image, stored = _decode(path, "image", content)
    deep_colours = image.format in ("PNG", "TIFF") and image.mode in _EIGHT_BIT_MODES and "16" in (stored or "")
    deep = deep_colours or image.mode not in _EIGHT_BIT_MODES
    if deep and "transparency" in image.info:
        raise UserError(f"image {path} has 16 bits and a transparent colour; save it without that")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        pixels = _from_16_bits(np.asarray(image), path)
    elif image.mode == "F":
        pixels = _from_floats(np.asarray(image), path)
    elif deep_colours:  # PIL would keep the upper byte alone
        pixels = _from_16_bits(_deep_colours(path, content), path)
    elif image.mode in _EIGHT_BIT_MODES:
        see_through = image.mode in ("RGBA", "LA") or "transparency" in image.info
        pixels = np.asarray(image.convert("RGBA" if see_through else "RGB"))
    else:
        raise UserError(f"image {path} is of the kind {image.mode}; expected RGB, grey or a palette (of CMYK and "
                        "others no reading is the right one): convert it")  # fmt: skip
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[2] == 4 and (pixels[..., 3] != 255).any():
        raise UserError(f"image {path} has transparent pixels; what lies behind them is not known: flatten it")
    return np.ascontiguousarray(pixels[..., :3])


def read_label(path: str | Path, content: bytes | None = None) -> np.ndarray:
    """The stored ids [H, W]: indices of palette images, 0 and 1 of 1-bit ones, 8 to 32 bits as they are.

    Raises:
        UserError: missing, not an image, or an image whose values are no class ids.
    """
    image, stored = _decode(path, "label", content)
    if image.format in ("JPEG", "MPO"):
        raise UserError(f"label {path} is a JPEG, whose compression changes ids; expected a PNG of class ids")
    if image.mode == "L" and stored not in (None, "L"):  # 2 and 4 bits are spread over 0..255
        raise UserError(f"label {path} is grey with fewer than 8 bits or inverted (stored as {stored}), so its ids are "
                        "not known; save it with 8 bits")  # fmt: skip
    label = np.asarray(image)
    if label.ndim != 2:
        raise UserError(f"label {path} has {label.shape[-1]} channels (a picture in colours?); expected one channel of "
                        "class ids: write the number of each colour's class instead")  # fmt: skip
    if label.dtype == np.bool_:
        return label.astype(np.uint8)
    if not np.issubdtype(label.dtype, np.integer):
        raise UserError(f"label {path} holds {label.dtype} values; expected whole class ids")
    return label


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the image file, read from its head alone."""
    with Image.open(path) as image:
        return image.height, image.width


def _decode(path: str | Path, kind: str, content: bytes | None) -> tuple[Image.Image, str | None]:
    """The decoded file, and how its pixels are stored (PIL's raw mode) where that is known."""
    try:
        image = Image.open(path if content is None else io.BytesIO(content))
        tile = image.tile[0][3] if image.tile else None
        orientation = image.getexif().get(_ORIENTATION, 1)  # first: to load a TIFF turns it and drops the tag
        frames = 1 if image.format in _ONE_PICTURE else getattr(image, "n_frames", 1)
        image.load()
    except FileNotFoundError:
        raise UserError(f"{kind} {path} is missing") from None
    except Exception as error:  # a decoder may fail in any way on a damaged file
        reason = _odd_tiff(path, content) or f"({type(error).__name__})"
        raise UserError(f"{kind} {path} is not a readable image {reason}") from None
    if orientation in range(2, 9):
        raise UserError(
            f"{kind} {path} is turned by viewers (EXIF orientation {orientation}), so which way image and label fit is "
            "not known: where they fit as viewers show them, turn the pixels (PIL.ImageOps.exif_transpose, mogrify "
            "-auto-orient); where they fit as stored, remove the tag (exiftool -Orientation=)"
        )
    if frames > 1:
        raise UserError(f"{kind} {path} holds {frames} pictures; expected one")
    return image, tile[0] if isinstance(tile, tuple) else tile


def _odd_tiff(path: str | Path, content: bytes | None) -> str:
    """What a TIFF's head says of its pixels, such as 3 x 32 bits (float), where PIL decodes no such ones."""
    try:
        data = Path(path).read_bytes() if content is None else content
        tags = ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's of damage, which has been told
            tags.load(file)
        bits, formats = tags[_BITS], tags.get(_SAMPLE_FORMAT, (1,))
    except Exception:  # no TIFF, damaged, or not to be read at all
        return ""
    if max(bits) <= 16 or tuple(bits) == (32,):  # then it is damaged
        return ""
    return f"(a TIFF of {len(bits)} x {bits[0]} bits, {_FORMATS.get(formats[0], 'unknown')}); save it with 8 or 16 bits"


def _deep_colours(path: str | Path, content: bytes | None) -> np.ndarray:
    """Colours of 16 bits, RGB(A) [H, W, 3 or 4]."""
    data = Path(path).read_bytes() if content is None else content
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise UserError(f"image {path} has 16 bits per channel in a form that is not read; save it with 8")
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def _from_16_bits(values: np.ndarray, path: str | Path) -> np.ndarray:
    top = int(values[..., :3].max() if values.ndim == 3 else values.max())
    if 0 < top < _LEAST_TOP:
        raise UserError(f"image {path} has 16 bits but its brightest value is {top}; expected the range 0..65535: "
                        "spread its values over that, or save it with 8 bits")  # fmt: skip
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_floats(values: np.ndarray, path: str | Path) -> np.ndarray:
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise UserError(f"image {path} holds floats from {values.min():.6g} to {values.max():.6g}; expected the range "
                        "0..1: divide by its largest possible value, or save it with 8 bits")  # fmt: skip
    return np.rint(values * 255).astype(np.uint8)
