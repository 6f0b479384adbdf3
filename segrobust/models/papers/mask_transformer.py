"""Segmenter (Strudel et al., ICCV 2021): a vision transformer with a mask transformer as its decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segrobust.models.papers.vit import TransformerBlock, VisionTransformer


class MaskDecoder(nn.Module):
    """Tokens of patches ``[N,T,C]`` -> masks ``[N,T,K]``: cosines between patches and class embeddings, normalised."""

    def __init__(self, num_classes: int, width: int = 384, depth: int = 2, heads: int = 6) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.proj_dec = nn.Linear(width, width)
        self.cls_emb = nn.Parameter(0.02 * torch.randn(1, num_classes, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(width)
        self.proj_patch = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.proj_classes = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.mask_norm = nn.LayerNorm(num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = torch.cat((self.proj_dec(tokens), self.cls_emb.expand(len(tokens), -1, -1)), 1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.decoder_norm(tokens)
        patches = _unit(tokens[:, : -self.num_classes] @ self.proj_patch)
        classes = _unit(tokens[:, -self.num_classes :] @ self.proj_classes)
        return self.mask_norm(patches @ classes.transpose(1, 2))


class MaskTransformer(nn.Module):
    """Raw RGB in [0, 1] -> logits at image size; sides are padded with black to multiples of the patch."""

    def __init__(self, num_classes: int, width: int = 384, depth: int = 12, heads: int = 6, grid: int = 32) -> None:
        super().__init__()
        self.encoder = VisionTransformer(width, depth, heads, grid=grid)
        self.decoder = MaskDecoder(num_classes, width, heads=heads)

    def forward(self, pixels: Tensor) -> Tensor:
        patch, (height, width) = self.encoder.patch, pixels.shape[-2:]
        pixels = F.pad(pixels, (0, -width % patch, 0, -height % patch))
        padded = pixels.shape[-2:]
        masks = self.decoder(self.encoder(pixels)).transpose(1, 2)
        masks = masks.unflatten(-1, (padded[0] // patch, padded[1] // patch))
        return F.interpolate(masks, size=padded, mode="bilinear", align_corners=False)[..., :height, :width]


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)
