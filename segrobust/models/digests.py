"""What tells a model from others: digests of its weights and of what its config says."""

from __future__ import annotations

import hashlib

import torch

from segrobust.models.segmenter import Segmenter


def model_identity(model: Segmenter) -> dict[str, str]:
    """Its name, its state and, where a config describes it, a digest of that: a mode of inference is in no weight."""
    config = {"config_sha256": model.config_sha256} if model.config_sha256 else {}
    return {"model": model.name, "weights_sha256": weights_sha256(model), **config}


def weights_sha256(model: torch.nn.Module) -> str:
    """Digest of all parameters and buffers, with their names and types."""
    return hashlib.sha256(repr(sorted(state_digests(model).items())).encode()).hexdigest()


def state_digests(model: torch.nn.Module) -> dict[str, str]:
    """sha256 of every parameter and buffer, those that checkpoints leave out (mean and std, say) included."""
    return {name: tensor_sha256(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def tensor_sha256(tensor: torch.Tensor) -> str:
    """Digest of a tensor's type, shape and values."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
