"""Models of segmentation-models-pytorch: the library's own logits, behind the encoder's preparation."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from segrobust.attacks import build_attack
from segrobust.core.errors import UserError
from segrobust.models.adapters.smp import SMPSegmenter
from segrobust.models.digests import model_identity
from segrobust.models.load import load_segmenter
from tests.models.adapters.saved import CLASSES, no_sockets, odd_images, save_smp

pytest.importorskip("segmentation_models_pytorch")
MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    no_sockets(monkeypatch)


@pytest.fixture(scope="module")
def fpn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "fpn"
    save_smp(folder)
    return folder


@pytest.fixture
def copy(fpn, tmp_path) -> Path:
    return Path(shutil.copytree(fpn, tmp_path / "fpn"))


def edit(folder: Path, **changes) -> None:
    content = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(content))


def of_library(folder: Path, pixels: torch.Tensor) -> torch.Tensor:
    import segmentation_models_pytorch as smp

    config = json.loads((folder / "config.json").read_text())
    kind = getattr(smp, config["_model_class"])
    net = kind.from_pretrained(folder, encoder_weights=None, local_files_only=True).eval()
    with torch.no_grad():
        return net(pixels)


@pytest.mark.parametrize("kind", ["FPN", "Unet", "DeepLabV3Plus", "UPerNet"])
def test_logits_are_those_of_the_library_and_odd_sizes_are_padded(tmp_path, kind):
    """Most take multiples of 32 (or 16) alone; Unet takes all sizes, and gets them."""
    save_smp(tmp_path, kind)
    model = load_segmenter(f"smp:{tmp_path}", device="cpu")
    images = odd_images()
    pixels = (images - MEAN) / STD
    if kind != "Unet":
        divisor = 16 if kind == "DeepLabV3Plus" else 32
        assert model.size_divisor == divisor
        with pytest.raises(RuntimeError, match=f"divisible by {divisor}"):
            of_library(tmp_path, pixels)
        pixels = F.pad(pixels, (0, -71 % divisor, 0, -45 % divisor))
    expected = of_library(tmp_path, pixels)[..., :45, :71]
    torch.testing.assert_close(model(images).detach(), expected, rtol=1e-4, atol=5e-5)
    assert model.num_classes == CLASSES and expected.argmax(1).unique().numel() > 1
    points = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(points)[:, 0].sum(), points)
    assert (gradient.abs().sum(1) > 0).float().mean() > 0.95


def test_an_attack_finds_what_it_looks_for(fpn):
    model, images = SMPSegmenter(str(fpn)).eval(), odd_images()
    with torch.no_grad():
        labels = model(images).argmax(1)
    result = build_attack("CEPGD", steps=4, eps="16/255")(model, images, labels)
    assert (result.pixel_error > 0.02).all()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax2d", "logsoftmax"])
def test_logits_come_before_an_activation(fpn, copy, activation):
    images = odd_images()
    expected = SMPSegmenter(str(fpn)).eval()(images)
    edit(copy, activation=activation)
    assert torch.equal(SMPSegmenter(str(copy)).eval()(images), expected)


def test_one_output_is_two_classes(tmp_path):
    net, images = save_smp(tmp_path, classes=1, activation="sigmoid"), torch.rand(1, 3, 32, 64)
    model = load_segmenter(f"smp:{tmp_path}", device="cpu")
    with torch.no_grad():
        probability = net((images - MEAN) / STD)[:, 0]
    logits = model(images).detach()
    assert model.num_classes == 2 and probability.std() > 0.01 and not logits[:, 0].any()
    torch.testing.assert_close(logits[:, 1].sigmoid(), probability, rtol=1e-4, atol=1e-5)


def prepared(folder: Path, **options) -> tuple[list, list]:
    model = SMPSegmenter(str(folder), **options)
    return tuple([round(value, 3) for value in values.flatten().tolist()] for values in (model.mean, model.std))


def test_preparation_is_that_of_the_encoders_weights_or_told(copy):
    imagenet, halves = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ([0.5] * 3, [0.5] * 3)
    assert prepared(copy) == imagenet
    assert prepared(copy, mean=(0.1, 0.2, 0.3), std=None) == ([0.1, 0.2, 0.3], [1, 1, 1])
    assert prepared(copy, mean=(0.1, 0.2, 0.3)) == ([0.1, 0.2, 0.3], imagenet[1])
    for weights in (None, "advprop"):
        edit(copy, encoder_weights=weights)
        with pytest.raises(UserError, match=rf"encoder resnet18 \(weights {weights}\) does not tell how .*\(--mean"):
            SMPSegmenter(str(copy))
    raw = SMPSegmenter(str(copy), mean=None, std=None).eval()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(raw(images).detach(), of_library(copy, images), rtol=1e-4, atol=1e-5)
    from segrobust.models.adapters.smp import _preparation

    for encoder, expected in (("xception", halves), ("tu-vit_tiny_patch16_224", halves), ("tu-resnet18", imagenet),
                              ("timm-efficientnet-b0", imagenet), ("mit_b0", imagenet)):  # fmt: skip
        found = _preparation({"encoder_name": encoder, "encoder_weights": "imagenet"}, copy, {})
        assert (list(found["mean"]), list(found["std"])) == expected
    with pytest.raises(UserError, match="encoder dpn68"):
        _preparation({"encoder_name": "dpn68", "encoder_weights": "imagenet"}, copy, {})


def test_the_identity_is_of_weights_files_and_options_wherever_they_lie(fpn, copy):
    first, moved = (model_identity(load_segmenter(f"smp:{folder}", device="cpu")) for folder in (fpn, copy))
    assert first == moved
    options = dict(type="SMPSegmenter", folder=str(copy), channel_order="bgr")
    other = model_identity(load_segmenter(dict(model=options), device="cpu"))
    assert other["config_sha256"] != first["config_sha256"] and other["weights_sha256"] == first["weights_sha256"]
    direct = {SMPSegmenter(str(copy), **told).config_sha256 for told in ({}, dict(channel_order="bgr"))}
    edit(copy, decoder_dropout=0.5)
    assert len(direct | {SMPSegmenter(str(copy)).config_sha256}) == 3


WRONG = {
    "no folder": (shutil.rmtree, "no such folder, and nothing is downloaded"),
    "no config": (lambda f: (f / "config.json").unlink(), "expected config.json and weights"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights in it"),
    "another library": (
        lambda f: (f / "config.json").write_text('{"model_type": "segformer"}'),
        r"is it one of transformers \(hf:FOLDER\)\?",
    ),
    "no such model": (lambda f: edit(f, _model_class="UNet"), "did you mean Unet"),
    "another attribute": (lambda f: edit(f, _model_class="create_model"), "unknown model of segmentation-models"),
    "four channels": (lambda f: edit(f, in_channels=4), r"in_channels: expected 3 \(RGB\), got 4"),
    "classes that are none": (lambda f: edit(f, classes="5"), "classes: expected a whole number of at least 1"),
    "classes instead of logits": (lambda f: edit(f, activation="argmax2d"), "activation='argmax2d' gives no logits"),
    "an encoder of a hub": (lambda f: edit(f, encoder_name="tu-hf-hub:some/model"), "asks for a download"),
    "no such encoder": (lambda f: edit(f, encoder_name="resnet19"), "Wrong encoder name `resnet19`"),
    "other weights": (lambda f: edit(f, encoder_name="resnet34"), r"the file lacks encoder\.layer1\.2"),
    "other classes": (lambda f: edit(f, classes=7), "wrong number of classes: 5 in the checkpoint, 7 in the model"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_folders_are_refused_in_one_line(copy, case):
    change, words = WRONG[case]
    change(copy)
    with pytest.raises(UserError, match=words) as refusal:
        load_segmenter(f"smp:{copy}", device="cpu")
    assert "\n" not in str(refusal.value)


def test_the_package_that_is_missing_is_named_with_its_extra(copy, monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    words = r"needs the package segmentation-models-pytorch: pip install 'segrobust\[smp\]'"
    with pytest.raises(UserError, match=words):
        SMPSegmenter(str(copy))
