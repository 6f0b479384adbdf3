"""UPerNet's, PSPNet's and DeepLab's parts against mmseg and torchvision with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segrobust.models.mm import import_mmseg
from segrobust.models.papers.architectures import build_network
from segrobust.models.papers.upernet import UPerHead, UPerNet
from segrobust.models.segmenter import frozen_eval
from tests.models.papers.stirred import stirred
from tests.models.papers.test_transformers import CLASSES, DEPTHS, WIDTHS, close, images

BN = dict(type="BN")


def renamed(state: dict, *names: tuple[str, str]) -> dict:
    """Keys with each of the old beginnings or parts replaced."""
    changed = {}
    for key, value in state.items():
        for old, new in names:
            key = key.replace(old, new)
        changed[key] = value
    return changed


@torch.no_grad()
def test_the_uper_head_is_mmsegs():
    import_mmseg()
    from mmseg.models.decode_heads import UPerHead as Theirs

    ours = stirred(UPerHead(CLASSES, WIDTHS, 10))
    theirs = Theirs(in_channels=list(WIDTHS), in_index=[0, 1, 2, 3], channels=10, num_classes=CLASSES, norm_cfg=BN,
                    align_corners=False).eval()  # fmt: skip
    theirs.load_state_dict(renamed(ours.state_dict(), ("batch_norm", "bn"), ("classifier", "conv_seg")), strict=True)
    sizes = ((27, 35), (13, 17), (6, 8), (7, 9))  # the last is larger than the one before: sizes are matched exactly
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(2, width, *size, generator=generator) for width, size in zip(WIDTHS, sizes, strict=True)]
    close(ours(features), theirs(features))


@torch.no_grad()
def test_upernet_upsamples_its_heads_logits_without_aligned_corners():
    net, pixels = stirred(UPerNet(CLASSES, DEPTHS, WIDTHS, head_width=8)), images(66, 91)
    logits = net.decode_head(net.backbone(pixels))
    assert logits.shape[-2:] == (17, 23)
    close(net(pixels), F.interpolate(logits, size=(66, 91), mode="bilinear", align_corners=False))


def their_backbone(deep: bool, state: dict) -> nn.Module:
    """mmseg's dilated ResNet-50 with our weights."""
    import_mmseg()
    from mmseg.models.backbones import ResNet, ResNetV1c

    options = dict(depth=50, num_stages=4, out_indices=(0, 1, 2, 3), dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1),
                   norm_cfg=BN, norm_eval=False, style="pytorch")  # fmt: skip
    net = ResNetV1c(stem_channels=128, **options) if deep else ResNet(**options)
    names = [("layer0", "stem")] if deep else [("layer0.0", "conv1"), ("layer0.1", "bn1")]
    backbone = renamed({key: value for key, value in state.items() if key.startswith("layer")}, *names)
    net.load_state_dict(backbone, strict=True)
    net.eval()  # which returns nothing there
    return net


def their_head(kind: str, state: dict, ours: str, **options) -> nn.Module:
    """One of mmseg's heads with the weights of the head ``ours`` and of what else it has in it."""
    from mmseg.models import decode_heads

    head = getattr(decode_heads, kind)(num_classes=CLASSES, norm_cfg=BN, align_corners=True, **options)
    into = "bottleneck" if kind == "PSPHead" else "convs.0"
    names = [(f"{ours}.0.", f"{into}.conv."), (f"{ours}.1.", f"{into}.bn."), (f"{ours}.4.", "conv_seg.")]
    weights = renamed({key: value for key, value in state.items() if key.startswith(f"{ours}.")}, *names)
    if kind == "PSPHead":
        for index in range(4):
            for at, name in ((1, "conv"), (2, "bn")):
                prefix = f"ppm.features.{index}.{at}."
                weights |= {f"psp_modules.{index}.1.{name}.{key.removeprefix(prefix)}": value
                            for key, value in state.items() if key.startswith(prefix)}  # fmt: skip
    head.load_state_dict(weights, strict=True)
    return head.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("arch", "head"), [("pspnet50", "cls"), ("pspnet50_deepstem", "cls"), ("pspnet50_deepstem_branches", "cls1")]
)
def test_pspnet_is_mmsegs(arch, head):
    net, pixels = stirred(build_network(arch, CLASSES)), images(65, 97)
    state = net.state_dict()
    features = their_backbone(arch != "pspnet50", state)(pixels)
    assert features[3].shape == (2, 2048, 9, 13)
    logits = their_head("PSPHead", state, head, in_channels=2048, in_index=3, channels=512)(features)
    close(net(pixels), F.interpolate(logits, size=(65, 97), mode="bilinear", align_corners=True))


@torch.no_grad()
@pytest.mark.parametrize(
    ("arch", "head"), [("deeplabv3_50_deepstem", "cls"), ("deeplabv3_50_deepstem_branches", "cls1")]
)
def test_deeplab_is_torchvisions_pyramid_without_projection_on_mmsegs_backbone(arch, head):
    from torchvision.models.segmentation.deeplabv3 import ASPP

    net, pixels = stirred(build_network(arch, CLASSES)), images(65, 161)  # wide enough for the rate of 18 to matter
    state = net.state_dict()
    features = their_backbone(True, state)(pixels)
    pyramid = ASPP(2048, [6, 12, 18]).eval()
    convs = {key.removeprefix("aspp."): value for key, value in state.items() if key.startswith("aspp.")}
    assert convs.keys() == {key for key in pyramid.state_dict() if key.startswith("convs.")}
    pyramid.load_state_dict(convs, strict=False)
    together = torch.cat([conv(features[3]) for conv in pyramid.convs], 1)
    options = dict(in_channels=1280, in_index=0, channels=256, num_convs=1, kernel_size=1, concat_input=False)
    logits = their_head("FCNHead", state, head, **options)([together])
    close(net(pixels), F.interpolate(logits, size=(65, 161), mode="bilinear", align_corners=True))


@torch.no_grad()
@pytest.mark.parametrize("arch", ["pspnet50_deepstem_branches", "deeplabv3_50_deepstem_branches", "pspnet50_deepstem",
                                  "deeplabv3_50_deepstem", "upernet_convnext_t_cvst"])  # fmt: skip
def test_what_is_of_training_alone_never_changes_the_logits(arch):
    net, pixels = stirred(build_network(arch, CLASSES)), images(33, 41)[:1]
    before = net(pixels)
    unused = ("aux", "cls2.", "mask1.")
    changed = [one for name, one in net.named_parameters() if name.startswith(unused)]
    assert changed
    for one in changed:
        one.add_(1)
    assert torch.equal(net(pixels), before)
    used = next(one for name, one in net.named_parameters() if not name.startswith(unused))
    used.mul_(1.5)
    assert not torch.equal(net(pixels), before)


@pytest.mark.parametrize("arch", ["pspnet50", "deeplabv3_50_deepstem", "segmenter_vit_s", "upernet_convnext_t_cvst"])
def test_gradients_reach_every_pixel_and_recomputing_changes_none(arch):
    from segrobust.models.adapters.papers import PaperSegmenter

    model = stirred(PaperSegmenter(arch, CLASSES, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    pixels = images(50, 47)[:1].requires_grad_()
    gradients = []
    with frozen_eval(model):
        for model.checkpointing in (False, True):
            logits = model(pixels)
            gradients += torch.autograd.grad(logits.square().mean(), pixels)
    assert logits.shape == (1, CLASSES, 50, 47)
    assert torch.equal(model(pixels), model.net((pixels - model.mean) / model.std))
    assert (gradients[0] != 0).float().mean() > 0.9 and torch.isfinite(gradients[0]).all()
    torch.testing.assert_close(gradients[0], gradients[1])
