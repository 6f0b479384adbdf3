"""Activation checkpointing gives the same numbers for less memory; attacks need little more than a bare pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.attack_step import bare_pass, peak_bytes
from segrobust import load_segmenter
from segrobust.attacks import build_attack
from segrobust.core.errors import UserError
from segrobust.models.adapters.mmseg import MMSegSegmenter
from segrobust.models.adapters.torchvision import TorchvisionSegmenter
from segrobust.models.mm import load_config
from segrobust.models.recomputing import blocks, recomputing
from segrobust.models.segmenter import Segmenter, frozen_eval
from tests.models.tiny import CLASSES, TinyNet, mmseg_config, stir, tiny_mmseg

SLIDE = dict(mode="slide", crop_size=(32, 32), stride=(20, 20))
BYTES_PER_PIXEL = 1.5e9 / (1024 * 2048)  # what an attack may need on top, at 19 classes; all of it grows with the image


def segformer() -> Segmenter:
    name = "mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py"
    return MMSegSegmenter.from_config(load_config(name, {"model.test_cfg": dict(mode="whole", _delete_=True)}))


MODELS = {
    "mmseg ResNet": tiny_mmseg,
    "mmseg slide": lambda: tiny_mmseg(mmseg_config(SLIDE)),
    "mmseg slide, image below the window": lambda: tiny_mmseg(mmseg_config(dict(SLIDE, crop_size=(99, 99)))),
    "mmseg with_cp": lambda: tiny_mmseg(mmseg_config(backbone=dict(with_cp=True))),
    "mmseg SegFormer": segformer,
    "torchvision FCN": lambda: TorchvisionSegmenter("fcn_resnet50", 4, aux_loss=True),
    "torchvision LR-ASPP": lambda: TorchvisionSegmenter("lraspp_mobilenet_v3_large", 4),
    "without blocks": lambda: Segmenter.wrap(TinyNet(), num_classes=CLASSES),
}


def logits_and_gradient(model: Segmenter, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    points = images.detach().requires_grad_()
    with frozen_eval(model):
        logits = model(points)
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(6))
        (gradient,) = torch.autograd.grad(logits, points, weights.to(logits))
    return logits.detach(), gradient


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("autocast", [False, True])
def test_checkpointing_changes_no_number(name, autocast):
    torch.manual_seed(0)
    model = MODELS[name]()
    stir(model)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    found = {}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for model.checkpointing in (False, True):
            found[model.checkpointing] = logits_and_gradient(model, images)
    assert torch.equal(found[True][0], found[False][0])
    assert torch.equal(found[True][1], found[False][1])
    assert found[True][1].abs().max() > 0
    assert not any("forward" in vars(part) or "encode_decode" in vars(part) for part in model.modules())


@pytest.mark.parametrize("name", ["mmseg ResNet", "mmseg slide"])
def test_attacks_find_the_same_images(name):
    model = MODELS[name]()
    images = torch.rand(2, 3, 40, 52, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(0, CLASSES, (2, 40, 52), generator=torch.Generator().manual_seed(8))
    results = {}
    for model.checkpointing in (False, True):
        results[model.checkpointing] = build_attack("TsallisPGD", eps="4/255", steps=4)(model, images, labels)
    assert torch.equal(results[True].images, results[False].images)


def test_blocks_are_the_members_of_stages_and_never_nested():
    network = MODELS["mmseg ResNet"]().module.backbone
    assert blocks(network) == [block for stage in range(1, 5) for block in getattr(network, f"layer{stage}")]
    network = MODELS["torchvision FCN"]().net
    assert [type(part).__name__ for part in blocks(network)] == ["Bottleneck"] * 16 + ["FCNHead"] * 2
    network = segformer().module.backbone
    kinds = [type(part).__name__ for part in blocks(network)]
    assert kinds.count("TransformerEncoderLayer") == 8 and kinds.count("PatchEmbed") == 4
    stem = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    assert blocks(nn.ModuleDict({"stem": stem, "last": nn.Conv2d(3, 3, 1)})) == [stem]


def test_blocks_run_twice_only_where_a_gradient_is_wanted():
    model = MODELS["mmseg ResNet"]()
    calls = []
    model.module.backbone.layer3[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    model.checkpointing = True
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model(images)
    assert len(calls) == 1
    logits_and_gradient(model, images)
    assert len(calls) == 3


def test_in_training_mode_nothing_is_computed_twice():
    model = MODELS["mmseg ResNet"]().train()
    model.checkpointing = True
    model(torch.rand(2, 3, 64, 64).requires_grad_()).sum().backward()
    assert model.module.backbone.layer1[0].bn1.num_batches_tracked == 1


def test_an_exception_leaves_the_methods_as_they_were():
    model = MODELS["mmseg slide"]()
    model.checkpointing = True
    model.module.decode_head.forward = refuse = lambda features: {}["nothing"]
    with pytest.raises(UserError, match="KeyError: 'nothing'"), frozen_eval(model):
        model(torch.rand(1, 3, 64, 64).requires_grad_())
    assert "encode_decode" not in vars(model.module)
    with recomputing([model.module.decode_head]):
        assert model.module.decode_head.forward is not refuse
    assert model.module.decode_head.forward is refuse


def test_load_segmenter_takes_it():
    assert load_segmenter(mmseg_config(), device="cpu", checkpointing=True).checkpointing
    assert not load_segmenter(mmseg_config(), device="cpu").checkpointing


def big(mode: str) -> Segmenter:
    """The benchmark's network with 19 classes, for images of 128x256; windows as in benchmarks/memory.py."""
    config = load_config("configs/fpn/fpn_r18w24_1xb8-std-3k_camvid-180x240.py")
    config.model.decode_head.update(num_classes=19, loss_decode=dict(type="CrossEntropyLoss"))
    slide = dict(mode="slide", crop_size=(128, 128), stride=(96, 96))
    config.model.test_cfg = slide if mode == "slide" else dict(mode="whole")
    return load_segmenter(config, device="cpu")


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_peak_memory(mode):
    model, images = big(mode), torch.rand(1, 3, 128, 256)
    labels = torch.randint(0, 19, (1, 128, 256))
    bare_pass(model, images)
    with frozen_eval(model):
        bare = peak_bytes(lambda: bare_pass(model, images))
        for name in ("TsallisPGD", "ALMAProx"):
            attack = build_attack(name, steps=4)
            extra = peak_bytes(lambda attack=attack: attack(model, images, labels)) - bare
            assert extra <= BYTES_PER_PIXEL * labels.numel(), name
        model.checkpointing = True
        assert peak_bytes(lambda: bare_pass(model, images)) < 0.75 * bare


def test_a_wrong_network_is_refused_all_the_same():
    model = Segmenter.wrap(TinyNet(), num_classes=7)
    model.checkpointing = True
    with pytest.raises(UserError, match="expected logits"):
        model.eval()(torch.rand(1, 3, 8, 8).requires_grad_())
