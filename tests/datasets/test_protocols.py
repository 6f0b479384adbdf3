"""The named protocols: pixels and labels as PIL alone makes them of the same files, and what void counts for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.commands.data import source_from_config
from segrobust.core.errors import UserError
from segrobust.core.rows import INPUT, ORIGINAL
from segrobust.datasets.protocols import PROTOCOLS
from segrobust.models.mm import import_mmseg

REAL = Path(os.environ.get("SEGROBUST_SHARED", Path(__file__).resolve().parents[3] / "shared" / "data")) / "real"
MINI = {"VOC 2012": "voc2012_mini", "ADE20K": "ade20k_mini", "Cityscapes": "cityscapes_mini"}
PLACES = {  # of image and label in the official archives
    "VOC 2012": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
    "ADE20K": ("images/validation/{}.jpg", "annotations/validation/{}.png"),
    "Cityscapes": ("leftImg8bit/val/ulm/{}_leftImg8bit.png", "gtFine/val/ulm/{}_gtFine_labelTrainIds.png"),
}
FILES = {"VOC 2012": ((375, 500), [0, 1, 20, 255]), "ADE20K": ((300, 401), [0, 1, 2, 150]),
         "Cityscapes": ((1024, 2048), [0, 5, 18, 255])}  # fmt: skip
# sizes of the images one after the other, (width, height), what is cut out, and what each id in the files becomes
KNOWN = {
    "voc473-void-as-background-21": ([(630, 473)], (78, 0, 473), {255: 0}),
    "voc473-ignore255": ([(630, 473)], (78, 0, 473), {}),
    "ade512-151": ([(684, 512)], (86, 0, 512), {}),
    "ade512-150": ([(684, 512)], (86, 0, 512), {0: 255, 1: 0, 2: 1, 150: 149}),
    "city1024x512-crop449": ([(1024, 512), (898, 449)], (224, 0, 449), {}),
    "city1024x512-crop512": ([(1024, 512)], (256, 0, 512), {}),
    "city-full": ([], None, {}),
    "voc512-short-side": ([(682, 512)], None, {}),
}


@pytest.fixture(scope="module", autouse=True)
def mmseg():
    import_mmseg()


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, Path]:
    """One image per data set in the official layout: smooth colours with some noise, labels in blocks."""
    roots = {}
    for name, ((height, width), ids) in FILES.items():
        root = roots[name] = tmp_path_factory.mktemp("archive")
        random = np.random.default_rng(7)
        coarse = random.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8)
        image = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        image[::3, ::5] = random.integers(0, 256, image[::3, ::5].shape)
        label = random.choice(np.array(ids, dtype=np.uint8), (height // 7 + 1, width // 7 + 1))
        label = label.repeat(7, 0).repeat(7, 1)[:height, :width]
        for place, pixels in zip(PLACES[name], (image, label), strict=True):
            file = root / place.format("a_000000_000001")
            file.parent.mkdir(parents=True)
            Image.fromarray(pixels).save(file)
        if name == "VOC 2012":
            (root / "ImageSets/Segmentation").mkdir(parents=True)
            (root / "ImageSets/Segmentation/val.txt").write_text("a_000000_000001\n")
    return roots


def by_hand(image: Image.Image, label: Image.Image, name: str) -> tuple[np.ndarray, np.ndarray]:
    sizes, cut, becomes = KNOWN[name]
    for size in sizes:
        image, label = image.resize(size, Image.Resampling.BILINEAR), label.resize(size, Image.Resampling.NEAREST)
    if cut:
        left, top, side = cut
        image, label = (one.crop((left, top, left + side, top + side)) for one in (image, label))
    ids = np.vectorize(lambda stored: becomes.get(stored, stored))(np.array(label))
    return np.array(image), ids


@pytest.mark.parametrize("name", PROTOCOLS)
def test_pixels_and_labels_are_those_of_pil(name, archives):
    protocol = PROTOCOLS[name]
    root = archives[protocol.data.archive.name]
    source = source_from_config(protocol.loaders(root))
    image, label = (Image.open(root / place.format("a_000000_000001")) for place in PLACES[protocol.data.archive.name])
    pixels, ids = by_hand(image, label, name)
    sample = source[0]
    assert (len(source), source.num_classes, source.ignore_index) == (1, protocol.num_classes, 255)
    assert torch.equal(sample.image, torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    assert np.array_equal(sample.label.numpy(), ids)
    if name != "voc473-void-as-background-21":
        assert set(np.unique(ids)) == {KNOWN[name][2].get(one, one) for one in FILES[protocol.data.archive.name][1]}


def test_void_counts_as_background_or_not_at_all(archives):
    """A model that says background everywhere is right on void pixels in one protocol, and not asked in the other."""
    labels = {}
    for name in ("voc473-void-as-background-21", "voc473-ignore255"):
        labels[name] = source_from_config(PROTOCOLS[name].loaders(archives["VOC 2012"]))[0].label
    counted, ignored = labels.values()
    background, void = (ignored == 0), (ignored == 255)
    assert void.float().mean() > 0.2 and not (counted == 255).any()
    assert torch.equal(counted == 0, background | void)
    assert torch.equal(counted[~void], ignored[~void])


def test_every_protocol_names_its_source_and_where_it_measures():
    for name, protocol in PROTOCOLS.items():
        assert name == protocol.name and "arXiv" in protocol.source and protocol.metric_size == INPUT


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_the_archive_is_found_where_it_was_unpacked(below, archives, tmp_path):
    place = tmp_path / below
    place.parent.mkdir(parents=True, exist_ok=True)
    if below:
        place.symlink_to(archives["VOC 2012"])
    root = tmp_path if below else archives["VOC 2012"]
    assert len(source_from_config(PROTOCOLS["voc512-short-side"].loaders(root))) == 1


def test_data_that_are_not_there_are_told(tmp_path):
    for name, words in (("city-full", "official Cityscapes archive (with leftImg8bit/val"), ("ade512-151", "ADE20K")):
        with pytest.raises(UserError, match="found neither") as error:
            PROTOCOLS[name].loaders(tmp_path)
        assert words in str(error.value)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match="0 is a class of its own"):
        PROTOCOLS["ade512-151"].loaders(tmp_path)


def test_a_model_of_other_classes_and_another_metric_size_are_refused():
    protocol = PROTOCOLS["ade512-150"]
    protocol.check_fits(150, INPUT)
    with pytest.raises(UserError, match="150 classes, but the model 151; ade512-151 has as many"):
        protocol.check_fits(151, INPUT)
    with pytest.raises(UserError, match=r"21 classes, but the model 20$"):
        PROTOCOLS["voc473-ignore255"].check_fits(20, INPUT)
    with pytest.raises(UserError, match="measures at metric size input, not original"):
        protocol.check_fits(150, ORIGINAL)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_real_images_have_the_published_sizes(name):
    protocol = PROTOCOLS[name]
    root = REAL / MINI[protocol.data.archive.name]
    if not root.is_dir():
        pytest.skip("the real images are not there; set SEGROBUST_SHARED")
    if not protocol.data.plain:
        pytest.skip("its classes are told only by the official archive")
    source = source_from_config(protocol.loaders(root))
    for index in range(len(source)):
        size, (height, width) = tuple(source[index].label.shape), source.file_size(index)
        if protocol.crop:
            assert size == (protocol.crop, protocol.crop)
        elif name == "voc512-short-side":
            assert min(size) == 512 and max(size) == 512 * max(height, width) // min(height, width)
            assert (size[0] > size[1]) == (height > width)
        else:
            assert size == (height, width)
        void = (source[index].label == 255).any()
        assert not (protocol.void_class == 0 and void)
    assert len(source) == {"VOC 2012": 12, "ADE20K": 3, "Cityscapes": 4}[protocol.data.archive.name]


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name.startswith("city")])
def test_cityscapes_label_ids_become_the_classes_of_its_train_ids(name, archives, tmp_path):
    """As the archive has them, without the files that its scripts write; train ids are preferred where they are."""
    place = PLACES["Cityscapes"][1].format("a_000000_000001")
    root, stored = tmp_path / "archive", np.array(Image.open(archives["Cityscapes"] / place))
    shutil.copytree(archives["Cityscapes"], root)
    table = np.full(256, 3, np.uint8)  # out of roi, which is void
    table[[0, 5, 18]] = 7, 17, 33  # road, pole and bicycle
    label_ids = root / place.replace("labelTrainIds", "labelIds")
    Image.fromarray(table[stored]).save(label_ids)
    preferred = source_from_config(PROTOCOLS[name].loaders(root))[0]
    (root / place).unlink()
    read = source_from_config(PROTOCOLS[name].loaders(root))
    assert torch.equal(read[0].label, preferred.label) and torch.equal(read[0].image, preferred.image)
    assert {0, 5, 18, 255} == set(read[0].label.unique().tolist())
    assert (read.num_classes, read.ignore_index) == (19, 255)
