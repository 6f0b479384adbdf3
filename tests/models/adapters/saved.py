"""Tiny random models as transformers and segmentation-models-pytorch save them, and a machine without a network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.tiny import stir as stir_statistics

CLASSES = 5
SIDE = 64  # what the processors resize to
FOUR = ["stage1", "stage2", "stage3", "stage4"]
ENCODER = dict(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4)


def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a connection, or the address of a name, fails."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked for")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


def stir(net: nn.Module) -> None:
    """Weights of trained size: those that transformers begins with give one class everywhere."""
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 1.4 / weight[0].numel() ** 0.5)
    stir_statistics(net)


def huggingface_parts(kind: str, **processor: Any) -> tuple[nn.Module, Any]:
    """A model and an image processor of transformers; ``processor`` changes the latter."""
    import transformers as hf

    torch.manual_seed(3)
    size = {"size": dict(height=SIDE, width=SIDE)} | processor
    if kind == "segformer":
        config = hf.SegformerConfig(
            **ENCODER, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, num_labels=CLASSES
        )
        return hf.SegformerForSemanticSegmentation(config), hf.SegformerImageProcessor(**size)
    if kind == "upernet":
        backbone = hf.ConvNextConfig(**ENCODER, out_features=FOUR)
        options = dict(hidden_size=16, auxiliary_in_channels=16, auxiliary_channels=8, num_labels=CLASSES)
        config = hf.UperNetConfig(backbone_config=backbone, **options)
        return hf.UperNetForSemanticSegmentation(config), hf.SegformerImageProcessor(**size)
    if kind == "dpt":
        config = hf.DPTConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
                              image_size=SIDE, patch_size=16, backbone_out_indices=[0, 1, 2, 3],
                              neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, num_labels=CLASSES)  # fmt: skip
        return hf.DPTForSemanticSegmentation(config), hf.DPTImageProcessor(**size)
    queries = dict(num_queries=7, num_labels=CLASSES, num_attention_heads=2)
    if kind == "eomt":
        config = hf.EomtConfig(hidden_size=16, num_hidden_layers=2, image_size=SIDE, patch_size=16, num_blocks=1,
                               num_upscale_blocks=1, **queries)  # fmt: skip
        edges = {"size": dict(shortest_edge=SIDE, longest_edge=None), "do_split_image": True} | processor
        return hf.EomtForUniversalSegmentation(config), hf.EomtImageProcessor(**edges)
    backbone = hf.SwinConfig(image_size=SIDE, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4,
                             out_features=FOUR)  # fmt: skip
    if kind == "maskformer":
        decoder = hf.DetrConfig(d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
                                encoder_attention_heads=2, decoder_attention_heads=2, num_queries=7)  # fmt: skip
        config = hf.MaskFormerConfig(backbone_config=backbone, decoder_config=decoder, fpn_feature_size=32,
                                     mask_feature_size=16, num_labels=CLASSES)  # fmt: skip
        return hf.MaskFormerForInstanceSegmentation(config), hf.MaskFormerImageProcessor(**size)
    config = hf.Mask2FormerConfig(backbone_config=backbone, feature_size=32, mask_feature_size=16, hidden_dim=32,
                                  encoder_feedforward_dim=32, encoder_layers=1, decoder_layers=2, dim_feedforward=32,
                                  **queries)  # fmt: skip
    return hf.Mask2FormerForUniversalSegmentation(config), hf.Mask2FormerImageProcessor(**size)


def save_huggingface(folder: Path, kind: str = "segformer", names: dict[int, str] | None = None, **processor: Any):
    """A folder as ``save_pretrained`` writes it; the model in it and its processor."""
    net, prepare = huggingface_parts(kind, **processor)
    stir(net)
    if names:
        net.config.id2label = names
    net.eval().save_pretrained(folder)
    prepare.save_pretrained(folder)
    return net, prepare


def save_smp(folder: Path, kind: str = "FPN", **options: Any) -> nn.Module:
    """The same of segmentation-models-pytorch; its file says that the encoder began with ImageNet's weights."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(3)
    net = getattr(smp, kind)("resnet18", **({"encoder_weights": None, "classes": CLASSES} | options)).eval()
    stir(net)
    net.config["encoder_weights"] = "imagenet"
    net.save_pretrained(folder)
    return net


def odd_images() -> Tensor:
    return torch.rand(2, 3, 45, 71, generator=torch.Generator().manual_seed(5))
