"""Random weights that all matter: no scale of one, no bias of zero, batch statistics of their own."""

from __future__ import annotations

from torch import Generator, Tensor, nn


def stirred(net: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode; weights keep the size of their layer's input, so that values neither vanish nor explode."""
    generator = Generator().manual_seed(seed)

    def normal(tensor: Tensor, scale: float, mean: float = 0.0) -> None:
        tensor.data.normal_(mean, scale, generator=generator)

    for part in net.modules():
        norm = isinstance(part, nn.BatchNorm2d | nn.LayerNorm)
        for name, tensor in part.named_parameters(recurse=False):
            if norm or name == "gamma":
                normal(tensor, 0.1, 1.0 if name in ("weight", "gamma") else 0.0)
            elif tensor.ndim > 1:
                normal(tensor, tensor[0].numel() ** -0.5 if name == "weight" else 0.3)
            else:
                normal(tensor, 0.1)
        if isinstance(part, nn.BatchNorm2d):
            normal(part.running_mean, 0.1)
            part.running_var.uniform_(0.5, 2, generator=generator)
    return net.eval()
