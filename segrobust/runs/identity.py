"""What a run depends on: two starts with the same identity give the same rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from segrobust.core.version import __version__
from segrobust.datasets.source import Source
from segrobust.models.segmenter import Segmenter
from segrobust.runs.environment import environment_of, memory_format_of
from segrobust.runs.settings import Settings
from segrobust.runs.users_code import users_code
from segrobust.studies.jobs import Job


def weights_sha256(model: torch.nn.Module) -> str:
    """Digest of all parameters and buffers, with their names and types."""
    return hashlib.sha256(repr(sorted(state_digests(model).items())).encode()).hexdigest()


def state_digests(model: torch.nn.Module) -> dict[str, str]:
    """sha256 of every parameter and buffer, those that checkpoints leave out (mean and std, say) included."""
    return {name: _digest(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def _digest(tensor: torch.Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def identity_of(model: Segmenter, dataset: Source, jobs: Sequence[Job], settings: Settings) -> dict[str, Any]:
    """Model, data, attacks, settings and what computes, as JSON values."""
    device = next(model.parameters()).device
    attacks: dict[str, Any] = {}
    for job in jobs[1:]:
        attacks.setdefault(job.label, {**job.attack.fields(), "eps": []})["eps"] += job.budgets
    surrogate = settings.surrogate
    code = users_code([model, *([surrogate] if surrogate else [])], [job.attack for job in jobs[1:]])
    return {
        "segrobust": __version__,
        **environment_of(device),
        **({"users_code": code} if code else {}),
        **_named(model),
        "num_classes": model.num_classes,
        "class_names": list(dataset.class_names),
        "palette": [list(colour) for colour in dataset.palette],
        "images": len(dataset),
        "dataset_fingerprint": dataset.fingerprint(),
        "attacks": attacks,
        **settings.identity(),
        "memory_format": memory_format_of(model),
        **({"mask_sha256": _digest(settings.mask)} if settings.mask is not None else {}),
        **({"surrogate": _named(surrogate)} if surrogate else {}),
    }


def _named(model: Segmenter) -> dict[str, str]:
    """Its name, its state and, where a config describes it, a digest of that: a mode of inference is in no weight."""
    config = {"config_sha256": model.config_sha256} if model.config_sha256 else {}
    return {"model": model.name, "weights_sha256": weights_sha256(model), **config}
