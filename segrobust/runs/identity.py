"""What a run depends on: two starts with the same identity give the same rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from segrobust.core.version import __version__
from segrobust.datasets.source import Source
from segrobust.datasets.survey import INPUT
from segrobust.models.segmenter import Segmenter
from segrobust.runs.environment import environment_of, memory_format_of
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


def identity_of(model: Segmenter, dataset: Source, jobs: Sequence[Job], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Model, data, attacks, ``settings`` and what computes, as JSON values."""
    device = next(model.parameters()).device
    attacks: dict[str, Any] = {}
    for job in jobs[1:]:
        attacks.setdefault(job.label, {**job.attack.fields(), "eps": []})["eps"] += job.budgets
    surrogate = settings.get("surrogate")
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
        **{name: settings[name] for name in ("batch_size", "seed", "amp")},
        "memory_format": memory_format_of(model),
        **({"target": target.identity()} if (target := settings["target"]) else {}),
        **({"mask_sha256": _digest(mask)} if (mask := settings.get("mask")) is not None else {}),
        **({"metric_size": size} if (size := settings.get("metric_size", INPUT)) != INPUT else {}),
        **({"eot": eot} if (eot := settings.get("eot", 1)) > 1 else {}),
        **({"surrogate": _named(surrogate)} if surrogate else {}),
    }


def _named(model: Segmenter) -> dict[str, str]:
    """Its name, its state and, where a config describes it, a digest of that: a mode of inference is in no weight."""
    config = {"config_sha256": model.config_sha256} if model.config_sha256 else {}
    return {"model": model.name, "weights_sha256": weights_sha256(model), **config}
