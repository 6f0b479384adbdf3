"""The vision transformer (Dosovitskiy et al., ICLR 2021) as Segmenter has it: pre-norm blocks, layer norm eps 1e-5.

Dropout and drop path, which do nothing in evaluation, are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention with one linear layer for queries, keys and values; tokens ``[N,T,C]``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (queries @ keys.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((weights @ values).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with GELU between, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(tokens)))


class TransformerBlock(nn.Module):
    """x += attention(norm(x)); x += MLP(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PatchEmbedding(nn.Module):
    """``[N,3,H,W]`` -> ``[N,C,H/patch,W/patch]``."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels)


class VisionTransformer(nn.Module):
    """Images whose sides are multiples of ``patch`` -> one token per patch, row by row, without the class token.

    Positions are learnt on a square grid of ``grid`` x ``grid`` patches. As in the origin they are resized only where
    the *number* of patches is another one: a wide image with as many takes them as they are, in raster order.
    """

    def __init__(self, width: int = 384, depth: int = 12, heads: int = 6, patch: int = 16, grid: int = 32) -> None:
        super().__init__()
        self.patch, self.grid = patch, grid
        self.patch_embed = PatchEmbedding(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)  # of the ImageNet classifier: part of the file, never used

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed(pixels)
        height, width = patches.shape[-2:]
        patches = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), 1)
        tokens = tokens + self._positions(height, width)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 1:]

    def _positions(self, height: int, width: int) -> Tensor:
        if height * width == self.grid**2:
            return self.pos_embed
        first, learnt = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        learnt = learnt.transpose(1, 2).unflatten(-1, (self.grid, self.grid))
        learnt = F.interpolate(learnt, size=(height, width), mode="bilinear", align_corners=False)
        return torch.cat((first, learnt.flatten(2).transpose(1, 2)), 1)
