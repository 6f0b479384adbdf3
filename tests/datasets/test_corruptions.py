"""The common corruptions: published constants, distances that other code gave, direct formulas, any size, one seed."""

from __future__ import annotations

import colorsys
import io
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from segrobust.core.errors import UserError
from segrobust.datasets.corruption_names import GROUPS, NAMES, SEVERITIES, corruption_name, corruptions_named
from segrobust.datasets.corruptions import CORRUPTIONS, corrupt
from segrobust.datasets.corruptions.blur import shuffled
from segrobust.datasets.corruptions.kernels import disk, motion, plasma, zoom
from segrobust.datasets.corruptions.weather import ice_texture

# Root mean square distance from the clean `scene()` at severities 1 to 5, of what imagecorruptions-imaug 1.1.5 returns,
# rounded to 8 bits (random types: the mean of 200 images). No number for frost, whose photographs are not here.
REFERENCE = {
    "gaussian_noise": (0.0782, 0.1138, 0.1626, 0.2209, 0.2931),
    "shot_noise": (0.0868, 0.1286, 0.1773, 0.2562, 0.3155),
    "impulse_noise": (0.0993, 0.1403, 0.1719, 0.2362, 0.2976),
    "defocus_blur": (0.1293, 0.1520, 0.1969, 0.2361, 0.2561),
    "glass_blur": (0.1596, 0.1516, 0.2283, 0.2137, 0.2254),
    "motion_blur": (0.1772, 0.2216, 0.2484, 0.2644, 0.2712),
    "zoom_blur": (0.1807, 0.2069, 0.2168, 0.2286, 0.2299),
    "snow": (0.1898, 0.2962, 0.2979, 0.3542, 0.4092),
    "fog": (0.2003, 0.2226, 0.2411, 0.2428, 0.2547),
    "brightness": (0.0704, 0.1262, 0.1542, 0.1790, 0.1979),
    "contrast": (0.1675, 0.1954, 0.2233, 0.2512, 0.2655),
    "elastic_transform": (0.1492, 0.1750, 0.2038, 0.2224, 0.2443),
    "pixelate": (0.0939, 0.1018, 0.1262, 0.1502, 0.1592),
    "jpeg_compression": (0.1321, 0.1376, 0.1412, 0.1521, 0.1652),
}
DETERMINISTIC = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
TOLERANCE = dict.fromkeys(REFERENCE, 0.03) | dict.fromkeys(DETERMINISTIC, 0.02)
TOLERANCE["zoom_blur"] = 0.04  # theirs cuts its larger images beside their centre
BLURS = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate", "contrast")


def scene(height: int = 96, width: int = 128) -> np.ndarray:
    """A texture with waves, edges and a ramp, on the 8-bit grid."""
    y, x = np.mgrid[:height, :width]
    red = 128 + 100 * np.sin(x / 3) * np.cos(y / 5)
    green = 40 + 170 * ((x // 7 + y // 11) % 2)
    return (np.rint(np.stack([red, green, (x * 5 + y * 3) % 256], axis=-1)) / 255).astype(np.float32)


def grey(value: float = 128 / 255, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    return np.full((*size, 3), value, dtype=np.float32)


def distance(name: str, severity: int, image: np.ndarray) -> float:
    seeds = range(1 if name in DETERMINISTIC else 32)
    drawn = [corrupt(image, name, severity, seed).astype(np.float64) - image for seed in seeds]
    return float(np.mean([np.sqrt((difference**2).mean()) for difference in drawn]))


@pytest.fixture(scope="module")
def distances() -> dict[str, list[float]]:
    return {name: [distance(name, severity, scene()) for severity in SEVERITIES] for name in CORRUPTIONS}


def test_the_constants_are_the_published_ones():
    constants = {name: kind.constants for name, kind in CORRUPTIONS.items()}
    single = {
        "gaussian_noise": [0.08, 0.12, 0.18, 0.26, 0.38],
        "shot_noise": [60, 25, 12, 5, 3],
        "impulse_noise": [0.03, 0.06, 0.09, 0.17, 0.27],
        "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
        "contrast": [0.4, 0.3, 0.2, 0.1, 0.05],
        "elastic_transform": [250 * share for share in (0.05, 0.065, 0.085, 0.1, 0.12)],
        "pixelate": [0.6, 0.5, 0.4, 0.3, 0.25],
        "jpeg_compression": [25, 18, 15, 10, 7],
    }
    for name, values in single.items():
        assert constants.pop(name) == tuple((value,) for value in values), name
    published = [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)]
    factors = [np.arange(1, stop, step) for stop, step in published]
    assert constants.pop("zoom_blur") == tuple((len(f), step) for f, (_, step) in zip(factors, published, strict=True))
    assert constants == {
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "fog": ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    }


def test_the_groups_are_the_papers():
    assert all(kind.function.__name__ == name for name, kind in CORRUPTIONS.items())
    assert tuple(CORRUPTIONS) == NAMES
    assert GROUPS == {
        "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
        "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
        "weather": ("snow", "frost", "fog", "brightness"),
        "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    }


@pytest.mark.parametrize("name", REFERENCE)
def test_images_are_as_far_from_the_clean_one_as_other_code_puts_them(name, distances):
    assert distances[name] == pytest.approx(REFERENCE[name], rel=TOLERANCE[name])


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"glass_blur", "frost"}))
def test_a_higher_severity_is_farther_from_the_clean_image(name, distances):
    assert (np.diff(distances[name]) > 0).all()


def test_the_published_exceptions_rise_from_first_to_last(distances):
    assert distances["glass_blur"][0] < distances["glass_blur"][4]
    assert distances["frost"][0] < distances["frost"][4]


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (17, 33), (180, 240)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size_gives_eight_bit_float32_and_leaves_its_input(name, size):
    image = scene(*size)
    before = image.copy()
    for severity in (1, 5):
        result = corrupt(image, name, severity, seed=0)
        assert result.shape == image.shape and result.dtype == np.float32 and result.flags.c_contiguous
        assert np.abs(result * 255 - np.rint(result * 255)).max() < 1e-4
        assert result.min() >= 0 and result.max() <= 1
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_seed_decides_and_nothing_else(name):
    np.random.seed(5)
    state, image = np.random.get_state()[1].copy(), scene(40, 50)
    first, again, other = (corrupt(image, name, 3, seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (name in DETERMINISTIC)
    assert np.array_equal(np.random.get_state()[1], state)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    assert np.array_equal(corrupt(planes.transpose(1, 2, 0), name, 3, 7), first)


def test_values_between_two_levels_are_rounded_first():
    assert np.array_equal(corrupt(scene() + 0.3 / 255, "contrast", 1, 0), corrupt(scene(), "contrast", 1, 0))


@pytest.mark.parametrize(("severity", "std"), [(1, 0.08), (2, 0.12)])
def test_gaussian_noise_has_the_published_deviation(severity, std):
    noise = corrupt(grey(), "gaussian_noise", severity, 0) - 128 / 255
    assert noise.std() == pytest.approx(std, rel=0.01)
    assert abs(noise.mean()) < 0.002
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.03  # each channel has its own


def test_shot_noise_counts_photons():
    values = corrupt(grey(51 / 255), "shot_noise", 3, 0).astype(np.float64)  # a mean of 0.2 x 12 photons
    assert np.abs(values * 12 - np.rint(values * 12)).max() < 12 / 255
    assert values.mean() == pytest.approx(0.2, rel=0.01)
    assert values.var() == pytest.approx(0.2 / 12, rel=0.03)


@pytest.mark.parametrize(("severity", "amount"), list(enumerate([0.03, 0.06, 0.09, 0.17, 0.27], start=1)))
def test_impulse_noise_replaces_its_share_by_black_and_white_alike(severity, amount):
    values = corrupt(grey(size=(200, 300)), "impulse_noise", severity, 0)
    assert set(np.unique(values)) == {np.float32(0), np.float32(128 / 255), np.float32(1)}
    assert (values == 0).mean() == pytest.approx(amount / 2, rel=0.04)
    assert (values == 1).mean() == pytest.approx(amount / 2, rel=0.04)
    assert ((values == 1).any(2) & (values < 1).any(2)).mean() > amount  # channel by channel, not pixel by pixel


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", BLURS)
def test_a_uniform_image_stays_as_it_is(name, severity):
    assert np.array_equal(corrupt(grey(77 / 255), name, severity, 0), grey(77 / 255))


@pytest.mark.parametrize(("radius", "sigma"), CORRUPTIONS["defocus_blur"].constants)
def test_the_disk_of_defocus_is_round_uniform_and_sums_to_one(radius, sigma):
    kernel = disk(radius, sigma)
    area = sum(x * x + y * y <= radius**2 for x in range(-radius, radius + 1) for y in range(-radius, radius + 1))
    middle = len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert kernel[middle, middle] == pytest.approx(1 / area, rel=1e-5)
    assert np.allclose(kernel, kernel.T) and np.allclose(kernel, kernel[::-1])
    half = kernel[middle, middle + radius : middle + radius + 2] * area
    assert half[0] > 0.3 and half[1] < 0.2  # the edge is between the last pixel of the radius and the next


@pytest.mark.parametrize(("angle", "y", "x"), [(0, 0, 1), (90, 1, 0), (-90, -1, 0), (45, 0.7071, 0.7071)])
def test_motion_is_half_a_gaussian_at_its_angle(angle, y, x):
    kernel, middle = motion(10, 3, angle), 20
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    row, column = np.nonzero(kernel > 1e-12)
    assert set(row - middle) == {int(np.floor(step * y + 0.5)) for step in range(21)}
    assert set(column - middle) == {int(np.floor(step * x + 0.5)) for step in range(21)}
    if angle == 0:
        line = kernel[middle, middle:]
        assert line[3] / line[0] == pytest.approx(np.exp(-0.5), rel=1e-5)
        assert line[6] / line[0] == pytest.approx(np.exp(-2.0), rel=1e-5)


def test_motion_blur_is_nearer_to_the_horizontal_and_snow_to_the_vertical():
    for seed in range(8):
        dot = np.zeros((81, 81, 3), dtype=np.float32)
        dot[40, 40] = 1
        y, x = np.nonzero(corrupt(dot, "motion_blur", 5, seed)[..., 0])
        assert np.ptp(x) >= np.ptp(y)
        flakes = corrupt(np.zeros((120, 120, 3), dtype=np.float32), "snow", 3, seed)[..., 0]
        assert np.abs(np.diff(flakes, axis=0)).mean() < np.abs(np.diff(flakes, axis=1)).mean()


def test_zoom_is_about_the_centre_and_by_its_factor():
    y, x = np.mgrid[:41, :61].astype(np.float32)
    ramp = np.stack([x, y, x + y], axis=-1)
    zoomed = zoom(ramp, 2.0)
    assert zoomed[20, 30] == pytest.approx([30, 20, 50], abs=0.02)
    assert zoomed[20, 60, 0] - zoomed[20, 0, 0] == pytest.approx(60 / (61 / 30), rel=0.01)  # 31 pixels become 62
    assert zoomed[40, 30, 1] - zoomed[0, 30, 1] == pytest.approx(40 / (41 / 20), rel=0.01)  # 21 pixels become 42
    assert np.array_equal(zoom(ramp, 1.0), ramp)


def test_zoom_blur_counts_the_image_once_more_than_its_layers():
    line = np.zeros((41, 41, 3), dtype=np.float32)
    line[:, 20] = 1
    expected = (line + sum(zoom(line, 1 + 0.03 * k) for k in range(11))) / 12
    assert np.abs(corrupt(line, "zoom_blur", 5, 0) - expected).max() < 0.51 / 255


@pytest.mark.parametrize(("size", "reach"), [((17, 23), 1), ((30, 21), 4), ((6, 9), 4), ((12, 12), 2)])
def test_glass_blur_takes_pixels_as_the_published_loop_does(size, reach):
    index = np.arange(size[0] * size[1]).reshape(size)
    rng, expected = np.random.default_rng(3), index.copy()
    rows, columns = max(size[0] - 2 * reach, 0), max(size[1] - 2 * reach, 0)
    dy, dx = rng.integers(-reach, reach, size=(2, rows, columns))
    for y in range(size[0] - reach, reach, -1):
        for x in range(size[1] - reach, reach, -1):
            inner = y - reach - 1, x - reach - 1
            expected[y, x] = expected[y + dy[inner], x + dx[inner]]
    assert np.array_equal(shuffled(size, np.random.default_rng(3), reach).reshape(size), expected)


def test_snow_whitens_and_falls_on_black_as_flakes():
    black = np.zeros((96, 128, 3), dtype=np.float32)
    kept, flakes = 0.8, corrupt(black, "snow", 1, 0)
    assert flakes.min() == pytest.approx((1 - kept) * 0.5, abs=1 / 255)  # 0.5 of white where no flake falls
    assert flakes.max() > 0.25
    assert np.abs(flakes - flakes[::-1, ::-1]).max() < 1.01 / 255  # the flakes and themselves upside down
    assert corrupt(scene(), "snow", 1, 0).mean() > scene().mean() + 0.1


@pytest.mark.parametrize(("severity", "kept", "ice"), [(1, 1, 0.4), (5, 0.6, 0.75)])
def test_frost_is_the_published_blend_with_a_texture_of_ice(severity, kept, ice):
    texture = ice_texture((96, 128), np.random.default_rng(4))
    expected = np.clip(kept * scene() + ice * texture, 0, 1)
    assert np.abs(corrupt(scene(), "frost", severity, 4) - expected).max() < 0.51 / 255
    assert texture.mean(axis=(0, 1)) == pytest.approx([0.57, 0.66, 0.70], abs=0.01)  # as the five photographs together
    assert texture.std(axis=(0, 1)) == pytest.approx(0.11, abs=0.015)


def test_fog_is_a_height_map_scaled_back_to_the_brightest_value():
    image = (0.5 * scene()).astype(np.float32)
    image = np.rint(image * 255) / np.float32(255)
    height, brightest = plasma((96, 128), np.random.default_rng(4), 2), image.max()
    expected = (image + 1.5 * height[..., None]) * brightest / (brightest + 1.5)
    assert np.abs(corrupt(image, "fog", 1, 4) - expected).max() < 0.51 / 255
    assert not corrupt(np.zeros_like(image), "fog", 5, 4).any()  # no light, no fog


def test_the_height_map_is_fractal():
    whole = plasma((256, 256), np.random.default_rng(0), 2)
    assert whole.min() == 0 and whole.max() == 1
    detail = []
    for step in (1, 2, 4, 8):
        grid = whole[::step, ::step].astype(np.float64)
        corners = (grid[:-2:2, :-2:2] + grid[2::2, :-2:2] + grid[:-2:2, 2::2] + grid[2::2, 2::2]) / 4
        detail.append((grid[1:-1:2, 1:-1:2] - corners).std())
    assert np.divide(detail[1:], detail[:-1]) == pytest.approx([4, 4, 4], rel=0.1)  # decay squared per halving
    assert np.array_equal(plasma((100, 130), np.random.default_rng(0), 2), whole[:100, :130])  # cut from the same map


def test_brightness_adds_to_the_value_in_hsv():
    image = scene(20, 30)
    image[0, 0] = 0
    result = corrupt(image, "brightness", 3, 0)
    for y, x in [(0, 0), (3, 4), (10, 20), (19, 29)]:
        hue, saturation, value = colorsys.rgb_to_hsv(*map(float, image[y, x]))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1))
        assert result[y, x] == pytest.approx(expected, abs=0.51 / 255)


def test_contrast_shrinks_towards_each_channels_mean():
    mean = scene().astype(np.float64).mean(axis=(0, 1))
    expected = mean + 0.2 * (scene() - mean)
    assert np.abs(corrupt(scene(), "contrast", 3, 0) - expected).max() < 0.51 / 255


def test_pixelate_repeats_the_means_of_blocks():
    blocks = scene(24, 32).reshape(6, 4, 8, 4, 3).mean(axis=(1, 3))
    expected = blocks.repeat(4, axis=0).repeat(4, axis=1)
    assert np.abs(corrupt(scene(24, 32), "pixelate", 5, 0) - expected).max() < 1.01 / 255  # rounds rows, then columns


def test_jpeg_compression_is_a_file_of_that_quality():
    file = io.BytesIO()
    Image.fromarray(np.rint(scene() * 255).astype(np.uint8)).save(file, "JPEG", quality=7)
    assert np.abs(corrupt(scene(), "jpeg_compression", 5, 0) * 255 - np.asarray(Image.open(file))).max() < 1e-3


@pytest.mark.parametrize("size", [(180, 240), (360, 480)])
def test_elastic_transform_moves_pixels_by_one_to_two_and_a_half(size):
    ramp = np.zeros((*size, 3), dtype=np.float32)
    ramp[...] = (np.arange(size[1]) % 128 * 2 / 255)[None, :, None]
    for severity, pixels in ((1, 1.0), (5, 2.4)):
        moved = (corrupt(ramp, "elastic_transform", severity, 0) - ramp)[:, 20:108, 0] * 255 / 2
        assert moved.std() == pytest.approx(pixels, rel=0.2)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_takes_less_than_a_second(name):
    image, start = scene(360, 480), time.thread_time()  # of this thread: tests beside it do not count
    corrupt(image, name, 5, 0)
    assert time.thread_time() - start < 1


@pytest.mark.parametrize(
    ("name", "severity", "shape", "message"),
    [
        ("gausian_noise", 1, (8, 8, 3), "unknown corruption 'gausian_noise'; did you mean gaussian_noise"),
        ("fog", 0, (8, 8, 3), "severity of a corruption: expected 1, 2, 3, 4 or 5, got 0"),
        ("fog", 6, (8, 8, 3), "severity of a corruption: expected 1, 2, 3, 4 or 5, got 6"),
        ("fog", 2.0, (8, 8, 3), "severity of a corruption: expected 1, 2, 3, 4 or 5, got 2.0"),
        ("fog", 1, (3, 8, 8), r"fog: expected an RGB image \[H, W, 3\], got shape \[3, 8, 8\]"),
        ("fog", 1, (8, 8), r"fog: expected an RGB image \[H, W, 3\], got shape \[8, 8\]"),
    ],
)
def test_what_is_not_there_is_refused(name, severity, shape, message):
    with pytest.raises(UserError, match=message):
        corrupt(np.zeros(shape, dtype=np.float32), name, severity, 0)


def test_names_stand_for_themselves_a_group_or_all():
    def named(names):
        return corruptions_named(map(corruption_name, names))

    assert named(["all"]) == NAMES
    assert named(["Pixelate", "blur", "zoom-blur"]) == (
        "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate"
    )  # fmt: skip
    with pytest.raises(UserError, match="unknown corruption 'wether'; did you mean weather"):
        named(["fog", "wether"])


def test_corruptions_need_no_torch():
    code = "import sys, segrobust.datasets.corruptions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
