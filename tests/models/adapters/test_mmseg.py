"""The adapter computes what mmseg's own ``test_step`` computes, bitwise, and so do its gradients."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch
from mmengine import Config
from torch import Tensor, nn

from segrobust.core.errors import UserError
from segrobust.models.adapters.mmseg import MMSegSegmenter
from segrobust.models.mm import import_mmseg, load_config
from segrobust.models.segmenter import frozen_eval
from tests.models.tiny import CLASSES, mmseg_config, stir, tiny_mmseg

SLIDE = dict(mode="slide", crop_size=(32, 32), stride=(20, 20))
CASES = {
    "whole": mmseg_config(),
    "slide": mmseg_config(SLIDE),
    "align corners": mmseg_config(head=dict(align_corners=True)),
    "BGR network": mmseg_config(preprocessor=dict(bgr_to_rgb=False)),
    "raw pixels": mmseg_config(preprocessor=dict(mean=None, std=None)),
    "padded to a divisor": mmseg_config(preprocessor=dict(test_cfg=dict(size_divisor=32), pad_val=3)),
    "padded to a size": mmseg_config(preprocessor=dict(test_cfg=dict(size=(64, 80)))),
    "padded less than the image": mmseg_config(preprocessor=dict(test_cfg=dict(size=(8, 96)))),
    "padded and slide": mmseg_config(SLIDE, preprocessor=dict(test_cfg=dict(size_divisor=32), pad_val=-1)),
    "gradient checkpointing": mmseg_config(backbone=dict(with_cp=True)),
}


def loader_batch(images: Tensor) -> dict[str, Any]:
    """What mmseg's loader makes of images: BGR tensors in 0..255 and samples with their sizes."""
    from mmseg.structures import SegDataSample

    size = tuple(images.shape[-2:])
    samples = [SegDataSample(metainfo=dict(ori_shape=size, img_shape=size)) for _ in images]
    return dict(inputs=[image.flip(0) for image in images], data_samples=samples)


def by_test_step(module: nn.Module, images: Tensor) -> Tensor:
    return torch.stack([sample.seg_logits.data for sample in module.test_step(loader_batch(images))])


def pixels(height: int = 45, width: int = 58) -> Tensor:
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_test_step_bitwise(case):
    model = tiny_mmseg(CASES[case])
    images = pixels()
    with torch.no_grad():
        ours, theirs = model(images / 255), by_test_step(model.module, images)
    assert ours.shape == (2, CLASSES, 45, 58)
    assert torch.equal(ours, theirs)
    assert theirs.std() > 0.01


@pytest.mark.parametrize("case", ["whole", "slide", "BGR network", "padded and slide"])
def test_pixel_gradients_equal_those_through_test_step_bitwise(case):
    model = tiny_mmseg(CASES[case])
    images = (pixels() / 255).requires_grad_()
    weights = torch.randn(2, CLASSES, 45, 58, generator=torch.Generator().manual_seed(6))
    with frozen_eval(model):
        (ours,) = torch.autograd.grad((model(images) * weights).sum(), images)
        (theirs,) = torch.autograd.grad((by_test_step(model.module, images * 255) * weights).sum(), images)
    assert torch.equal(ours, theirs)
    assert ours.isfinite().all()
    assert ours.abs().amax(dim=1).gt(0).float().mean() > 0.9


def test_slide_inference_really_slides():
    whole, slide = tiny_mmseg(CASES["whole"]), tiny_mmseg(CASES["slide"])
    slide.module.load_state_dict(whole.module.state_dict())
    images = pixels() / 255
    assert (whole(images) - slide(images)).abs().max() > 1e-3


def test_slide_inference_leaves_later_calls_alone():
    model = tiny_mmseg(CASES["slide"])
    images = pixels() / 255
    first = model(images)
    model(pixels(33, 70) / 255)
    assert torch.equal(model(images), first)


def test_double_precision_stays_double():
    model = tiny_mmseg().double()
    assert model(pixels().double() / 255).dtype == torch.float64


def test_a_live_view_shares_the_model_and_takes_the_wrapper_off():
    module = tiny_mmseg().module.train()
    view = MMSegSegmenter.live(nn.DataParallel(module))
    assert view.module is module
    assert module.training
    assert MMSegSegmenter(module, class_names=list("abcde")).class_names == tuple("abcde")
    assert (view.num_classes, view.ignore_index) == (CLASSES, 255)
    assert set(view.state_dict()) == {f"module.{key}" for key in module.state_dict()}


def test_a_live_model_in_training_is_seen_as_in_evaluation_and_left_in_training():
    module = tiny_mmseg(CASES["gradient checkpointing"]).module
    images = pixels()
    with torch.no_grad():
        expected = by_test_step(module, images)
    module.train()
    statistics = {key: value.clone() for key, value in module.state_dict().items()}
    view = MMSegSegmenter.live(module)
    leaf = (images / 255).requires_grad_()
    with frozen_eval(view):
        logits = view(leaf)
        torch.autograd.grad(logits.sum(), leaf)
    assert torch.equal(logits, expected)
    assert module.training
    assert module.backbone.layer1[0].with_cp
    assert all(torch.equal(value, statistics[key]) for key, value in module.state_dict().items())


def test_models_that_cannot_be_followed_are_refused():
    import_mmseg()
    with pytest.raises(UserError, match=r"Segmenter\.wrap"):
        MMSegSegmenter.live(nn.Conv2d(3, 2, 1))
    with pytest.raises(UserError, match="SegDataPreProcessor"):
        tiny_mmseg(Config(dict(model=dict(mmseg_config().model.to_dict(), data_preprocessor=None))))
    with pytest.raises(UserError, match=r"cannot be built: .*NoSuchNet"):
        tiny_mmseg(mmseg_config(backbone=dict(type="NoSuchNet")))


def test_pretrained_weights_are_not_downloaded(monkeypatch):
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    config = mmseg_config(backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet18")))
    config.model.pretrained = "open-mmlab://resnet18_v1c"
    assert tiny_mmseg(config)(pixels() / 255).shape == (2, CLASSES, 45, 58)
    timm = dict(_delete_=True, type="TIMMBackbone", model_name="resnet10t", features_only=True, in_channels=3)
    config = mmseg_config()
    config.merge_from_dict(dict(model=dict(backbone=timm, decode_head=dict(in_channels=512, in_index=4))))
    assert tiny_mmseg(config)(pixels() / 255).shape == (2, CLASSES, 45, 58)


def test_class_names_come_from_the_dataset_of_the_config_where_they_fit():
    config = mmseg_config(head=dict(num_classes=19))
    config.test_dataloader = dict(dataset=dict(type="CityscapesDataset", data_root="not/there"))
    model = tiny_mmseg(config)
    assert model.class_names[:2] == ("road", "sidewalk")
    assert model.palette[0] == (128, 64, 128)
    config.test_dataloader.dataset.metainfo = dict(classes=("a", "b"))
    assert tiny_mmseg(config).class_names[0] == "class_0"


SMALL = {
    "PSPNet": "pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    "SegFormer": "segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py",
    "DDRNet": "ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
    "PIDNet": "pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py",
    "Fast-SCNN": "fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py",
}


@pytest.mark.parametrize("name", SMALL)
def test_models_of_mmseg_equal_their_test_step_also_from_within_training(name):
    config = load_config(f"mmseg::{SMALL[name]}", {"model.test_cfg": dict(mode="whole", _delete_=True)})
    model = MMSegSegmenter.from_config(config)
    stir(model)
    images = pixels(64, 64)
    with torch.no_grad(), frozen_eval(model):  # torch's attention rounds differently with frozen parameters
        expected = by_test_step(model.module, images)
    model.train()  # the heads of DDRNet and PIDNet return tuples in this mode
    leaf = (images / 255).requires_grad_()
    with frozen_eval(model):
        logits = model(leaf)
        (gradient,) = torch.autograd.grad(logits.square().mean(), leaf)
    assert torch.equal(logits, expected)
    assert gradient.isfinite().all()
    assert gradient.abs().amax() > 0
    assert model.module.training
