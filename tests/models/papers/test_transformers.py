"""ConvNeXt and Segmenter against timm and mmseg with the same weights, and against plain formulas."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segrobust.models.mm import import_mmseg
from segrobust.models.papers.convnext import ConvNeXt
from segrobust.models.papers.mask_transformer import MaskDecoder, MaskTransformer
from segrobust.models.papers.vit import VisionTransformer
from tests.models.papers.stirred import stirred

DEPTHS, WIDTHS = (1, 2, 3, 1), (8, 12, 16, 20)
WIDTH, HEADS, CLASSES = 24, 3, 7


def images(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def by_channel(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    """Layer normalisation over channels with eps 1e-6, written out."""
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    weight, bias = norm.weight.view(1, -1, 1, 1), norm.bias.view(1, -1, 1, 1)
    return (x - mean) / (variance + 1e-6).sqrt() * weight + bias


@torch.no_grad()
def test_convnext_stages_are_those_of_timm():
    from timm.models.convnext import ConvNeXt as Theirs

    ours = stirred(ConvNeXt(DEPTHS, WIDTHS))
    theirs = Theirs(depths=DEPTHS, dims=WIDTHS, num_classes=0).eval()
    names = {"dwconv": "conv_dw", "pwconv1": "mlp.fc1", "pwconv2": "mlp.fc2"}
    state = {}
    for key, value in ours.state_dict().items():
        parts = key.split(".")
        if parts[0] == "stages":
            state[".".join(["stages", parts[1], "blocks", parts[2], names.get(parts[3], parts[3]), *parts[4:]])] = value
        elif parts[0] == "downsample_layers" and parts[1] != "0":
            state[".".join(["stages", parts[1], "downsample", *parts[2:]])] = value
    assert state.keys() == {key for key in theirs.state_dict() if key.startswith("stages.")}
    theirs.load_state_dict(state, strict=False)
    pixels = images(75, 101)
    x, features = ours.downsample_layers[0](pixels), ours(pixels)
    assert [tuple(one.shape[-2:]) for one in features] == [(19, 26), (9, 13), (4, 6), (2, 3)]
    for level, stage in enumerate(theirs.stages):
        x = stage(x)
        close(features[level], by_channel(x, ours.get_submodule(f"norm{level}")))


@torch.no_grad()
def test_the_stem_is_two_convolutions_of_stride_2_with_norm_and_gelu():
    stem, pixels = stirred(ConvNeXt(DEPTHS, WIDTHS)).downsample_layers[0], images(37, 50)
    x = pixels
    for conv, norm in ((stem.stem[0], stem.stem[1]), (stem.stem[3], stem.stem[4])):
        x = by_channel(F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1), norm)
        x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    close(stem(pixels), x)


def test_convnext_normalises_with_an_eps_of_1e6_its_head_with_1e5():
    from segrobust.models.papers.upernet import UPerNet

    net = UPerNet(CLASSES, DEPTHS, WIDTHS, head_width=8)
    assert {part.eps for part in net.backbone.modules() if hasattr(part, "eps")} == {1e-6}
    assert {part.eps for part in net.decode_head.modules() if hasattr(part, "eps")} == {1e-5}


@torch.no_grad()
def test_the_encoder_is_timms_with_a_layer_norm_eps_of_1e5():
    from timm.models.vision_transformer import VisionTransformer as Theirs

    ours = stirred(VisionTransformer(WIDTH, depth=3, heads=HEADS, patch=16, grid=4))
    norm = partial(nn.LayerNorm, eps=1e-5)
    theirs = Theirs(img_size=64, patch_size=16, embed_dim=WIDTH, depth=3, num_heads=HEADS, norm_layer=norm).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    pixels = images(64, 64)
    close(ours(pixels), theirs.forward_features(pixels)[:, 1:])
    assert {part.eps for part in MaskTransformer(CLASSES, WIDTH, 1, HEADS).modules() if hasattr(part, "eps")} == {1e-5}


@torch.no_grad()
def test_positions_are_resized_where_the_number_of_patches_differs_and_only_there():
    net = stirred(VisionTransformer(WIDTH, depth=1, heads=HEADS, grid=4))
    first, grid = net.pos_embed[:, :1], net.pos_embed[:, 1:].reshape(1, 4, 4, WIDTH)
    for height, width in ((4, 4), (2, 8), (16, 1)):
        assert torch.equal(net._positions(height, width), net.pos_embed)
    expected = F.interpolate(grid.permute(0, 3, 1, 2), size=(3, 5), mode="bilinear", align_corners=False)
    expected = torch.cat((first, expected.permute(0, 2, 3, 1).reshape(1, 15, WIDTH)), 1)
    assert torch.equal(net._positions(3, 5), expected)
    rows = net._positions(8, 4)[0, 1:].view(8, 4, WIDTH)  # twice as many rows: 1/4 and 3/4 between learnt ones
    close(rows[1], 0.75 * grid[0, 0] + 0.25 * grid[0, 1])


@torch.no_grad()
def test_the_decoder_is_mmsegs_mask_transformer():
    import_mmseg()
    from mmseg.models.decode_heads import SegmenterMaskTransformerHead

    ours = stirred(MaskDecoder(CLASSES, WIDTH, heads=HEADS))
    theirs = SegmenterMaskTransformerHead(
        in_channels=WIDTH, channels=WIDTH, num_classes=CLASSES, num_layers=2, num_heads=HEADS, embed_dims=WIDTH,
        dropout_ratio=0.0, in_index=0,
    ).eval()  # fmt: skip
    names = {"blocks": "layers", "norm1": "ln1", "norm2": "ln2", "proj_dec": "dec_proj", "mlp.fc1": "ffn.layers.0.0",
             "mlp.fc2": "ffn.layers.1", "attn.qkv.weight": "attn.attn.in_proj_weight",
             "attn.qkv.bias": "attn.attn.in_proj_bias", "attn.proj": "attn.attn.out_proj"}  # fmt: skip
    state = {}
    for key, value in ours.state_dict().items():
        for old, new in names.items():
            key = key.replace(old, new)
        state[key] = value
    for ours_name, their_name in (("proj_patch", "patch_proj"), ("proj_classes", "classes_proj")):
        state[f"{their_name}.weight"] = state.pop(ours_name).T
    theirs.load_state_dict(state, strict=True)
    features = torch.randn(2, WIDTH, 3, 5, generator=torch.Generator().manual_seed(3))
    masks = ours(features.flatten(2).transpose(1, 2))
    close(masks.transpose(1, 2).reshape(2, CLASSES, 3, 5), theirs([features]))


@torch.no_grad()
def test_sides_are_padded_with_black_and_logits_cropped():
    net = stirred(MaskTransformer(CLASSES, WIDTH, depth=2, heads=HEADS, grid=4))
    pixels = images(50, 70)
    padded = torch.zeros(2, 3, 64, 80)
    padded[..., :50, :70] = pixels
    close(net(pixels), net(padded)[..., :50, :70])
    masks = net.decoder(net.encoder(padded)).transpose(1, 2).reshape(2, CLASSES, 4, 5)
    upsampled = F.interpolate(masks, scale_factor=16, mode="bilinear", align_corners=False)
    close(net(pixels), upsampled[..., :50, :70])


@pytest.mark.parametrize("size", [(29, 29), (30, 61)])
def test_upernet_takes_sizes_from_29_up(size):
    from segrobust.models.papers.upernet import UPerNet

    net = stirred(UPerNet(CLASSES, DEPTHS, WIDTHS, head_width=8))
    pixels = images(*size).requires_grad_()
    logits = net(pixels)
    (gradient,) = torch.autograd.grad(logits.square().sum(), pixels)
    assert logits.shape == (2, CLASSES, *size) and (gradient != 0).float().mean() > 0.9
