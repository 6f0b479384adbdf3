"""Reading and writing at every pixel's own class.

On a GPU without ``scatter``: in torch's deterministic mode that of a tensor sorts all places, after it has copied some
numbers from the host, for which the host waits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def onehot(labels: Tensor, num_classes: int) -> Tensor:
    """``[N, K, H, W]`` bool of labels ``[N, H, W]``."""
    return labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device).view(1, -1, 1, 1)


def write(planes: Tensor, labels: Tensor, values: Tensor) -> Tensor:
    """``values`` ``[N, H, W]`` at the labels' classes of ``planes`` ``[N, K, H, W]``, in place."""
    if planes.is_cuda:
        return _write_compared(planes, labels, values)
    return planes.scatter_(1, labels.unsqueeze(1), values.unsqueeze(1))


def _write_compared(planes: Tensor, labels: Tensor, values: Tensor) -> Tensor:
    return torch.where(onehot(labels, planes.shape[1]), values.unsqueeze(1), planes, out=planes)


def count(labels: Tensor, chosen: Tensor, num_classes: int) -> Tensor:
    """How many of the chosen pixels, ``[N, H, W]`` bool, have which label, ``[N, K]`` long."""
    if labels.is_cuda:
        return _count_compared(labels, chosen, num_classes)
    none = torch.zeros(len(labels), num_classes, dtype=torch.long, device=labels.device)
    return none.scatter_add_(1, labels.flatten(1), chosen.flatten(1).long())


def _count_compared(labels: Tensor, chosen: Tensor, num_classes: int) -> Tensor:
    return (onehot(labels, num_classes) & chosen.unsqueeze(1)).flatten(2).sum(2)
