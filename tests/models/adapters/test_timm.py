"""Backbones of timm behind our heads, and torchvision's two layouts of checkpoints."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from segrobust.attacks import build_attack
from segrobust.core.errors import UserError
from segrobust.models.adapters.timm import TimmSegmenter
from segrobust.models.adapters.torchvision import AUXILIARY, TorchvisionSegmenter
from segrobust.models.digests import model_identity
from segrobust.models.load import load_segmenter
from tests.models.adapters.saved import CLASSES, no_sockets, odd_images
from tests.models.tiny import stir

NET = dict(type="TimmSegmenter", backbone="resnet10t", num_classes=CLASSES, head_width=16)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    no_sockets(monkeypatch)


@pytest.mark.parametrize("head", ["upernet", "fcn"])
@pytest.mark.parametrize(
    ("backbone", "options"),
    [("resnet10t", {}), ("convnext_atto", {}), ("mambaout_femto", {}), ("vit_tiny_patch16_224", dict(img_size=64))],
)
def test_logits_are_the_heads_over_timms_features(backbone, options, head):
    torch.manual_seed(0)
    model = TimmSegmenter(backbone, CLASSES, head=head, head_width=16, backbone_options=options).eval()
    stir(model)
    cfg, images = timm.get_pretrained_cfg(backbone), odd_images()
    if "img_size" in options:
        images = F.interpolate(images, size=(64, 64))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (cfg.mean, cfg.std))
    net = timm.create_model(backbone, features_only=True, **options).eval()
    net.load_state_dict(model.net.backbone.state_dict())
    features = net((images - mean) / std)
    if features[0].shape[1] != net.feature_info.channels()[0]:
        features = [feature.permute(0, 3, 1, 2) for feature in features]
    expected = model.net.decode_head(features if head == "upernet" else features[-1])
    expected = F.interpolate(expected, size=images.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    points = images.clone().requires_grad_()
    assert torch.autograd.grad(model(points)[:, 0].sum(), points)[0].abs().sum() > 0


def test_a_checkpoint_is_loaded_strictly_and_attacked(tmp_path):
    torch.manual_seed(0)
    model, images = TimmSegmenter(**{key: value for key, value in NET.items() if key != "type"}).eval(), odd_images()
    stir(model)
    save_file({key: value.contiguous() for key, value in model.net.state_dict().items()}, tmp_path / "x.safetensors")
    loaded = load_segmenter(dict(model=NET), tmp_path / "x.safetensors", device="cpu")
    torch.testing.assert_close(loaded(images), model(images))
    with torch.no_grad():
        labels = loaded(images).argmax(1)
    assert (build_attack("CEPGD", steps=4, eps="16/255")(loaded, images, labels).pixel_error > 0).all()
    with pytest.raises(UserError, match="the file lacks"):
        load_segmenter(dict(model=NET | dict(head="fcn")), tmp_path / "x.safetensors", device="cpu")


def test_weights_of_the_backbone_come_from_a_local_file(tmp_path):
    classifier = timm.create_model("resnet10t", num_classes=3)
    torch.save(classifier.state_dict(), tmp_path / "backbone.pth")
    model = load_segmenter(dict(model=NET | dict(backbone_weights=str(tmp_path / "backbone.pth"))), device="cpu")
    assert torch.equal(model.net.backbone.layer4[0].conv1.weight, classifier.layer4[0].conv1.weight)
    other = tmp_path / "other.pth"
    (tmp_path / "backbone.pth").rename(other)
    again = load_segmenter(dict(model=NET | dict(backbone_weights=str(other))), device="cpu")
    assert model_identity(again)["config_sha256"] == model_identity(model)["config_sha256"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(backbone="resnet19"), "unknown model of timm 'resnet19'; did you mean resnet18"),
        (dict(backbone="hf-hub:timm/resnet18"), "nothing is downloaded here"),
        (dict(backbone_options=dict(pretrained=True)), "asks for a download, and nothing is downloaded here"),
        (dict(backbone_options=dict(depth=3)), "timm's resnet10t: TypeError: .*'depth'"),
        (dict(backbone_weights="missing.pth"), "no such checkpoint file"),
        (dict(head="uper"), "unknown head 'uper'; did you mean upernet"),
        (dict(backbone="resnet10t_x"), "unknown model of timm"),
    ],
)
def test_wrong_settings_are_told_in_one_line(change, words):
    with pytest.raises(UserError, match=words) as refusal:
        load_segmenter(dict(model=NET | change), device="cpu")
    assert "\n" not in str(refusal.value)


ARCHS = ["deeplabv3_mobilenet_v3_large", "deeplabv3_resnet101", "deeplabv3_resnet50", "fcn_resnet101", "fcn_resnet50",
         "lraspp_mobilenet_v3_large"]  # fmt: skip


def test_every_segmentation_model_of_torchvision_has_the_layout_of_its_files():
    """Published files of FCN and DeepLab hold an auxiliary head."""
    from torchvision.models import get_model, list_models, segmentation

    assert list_models(module=segmentation) == ARCHS
    with torch.device("meta"):
        for arch in ARCHS:
            aux = {} if arch.startswith("lraspp") else {"aux_loss": True}
            file = get_model(arch, weights=None, weights_backbone=None, num_classes=21, **aux).state_dict()
            bare = get_model(arch, weights=None, weights_backbone=None, num_classes=21).state_dict()
            assert list(bare) == [key for key in file if AUXILIARY not in key.split(".")]
            assert (len(bare) < len(file)) == bool(aux)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_file_with_an_auxiliary_head_serves_a_model_without_and_with_it(tmp_path, prefix):
    arch, images = "deeplabv3_mobilenet_v3_large", odd_images()
    torch.manual_seed(0)
    both = TorchvisionSegmenter(arch, 4, aux_loss=True).eval()
    stir(both)
    state = both.net.state_dict()
    torch.save({"model": {prefix + key: value for key, value in state.items()}}, tmp_path / "both.pth")
    bare = {key: value for key, value in state.items() if not key.startswith("aux_classifier")}
    torch.save({prefix + key: value for key, value in bare.items()}, tmp_path / "bare.pth")
    settings = dict(type="TorchvisionSegmenter", arch=arch, num_classes=4)
    for name, aux in (("both", False), ("bare", False), ("both", True)):
        model = load_segmenter(dict(model=settings | dict(aux_loss=aux)), tmp_path / f"{name}.pth", device="cpu")
        torch.testing.assert_close(model(images), both(images))
    with pytest.raises(UserError, match=r"the file lacks aux_classifier\.0"):
        load_segmenter(dict(model=settings | dict(aux_loss=True)), tmp_path / "bare.pth", device="cpu")
