"""What a run depends on: two starts with the same identity give the same rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from segrobust.datasets.source import Source
from segrobust.evaluation.jobs import Job
from segrobust.models.segmenter import Segmenter


def weights_sha256(model: torch.nn.Module) -> str:
    """Digest of all parameters and buffers, with their names and types."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The values as they lie in memory, whatever their type and strides."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def identity_of(model: Segmenter, dataset: Source, jobs: Sequence[Job], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Model, data, attacks and ``settings`` (those of the run, and the model's form) as JSON values."""
    attacks: dict[str, Any] = {}
    for job in jobs[1:]:
        attacks.setdefault(job.label, {**job.attack.fields(), "eps": []})["eps"] += job.budgets
    return {
        "model": model.name,
        "weights_sha256": weights_sha256(model),
        "num_classes": model.num_classes,
        "class_names": list(dataset.class_names),
        "palette": [list(colour) for colour in dataset.palette],
        "images": len(dataset),
        "dataset_fingerprint": dataset.fingerprint(),
        "attacks": attacks,
        **{name: settings[name] for name in ("batch_size", "seed", "amp")},
        **{name: True for name in ("fold_bn", "channels_last") if settings.get(name)},
        **({"target": target.identity()} if (target := settings["target"]) else {}),
        **({"eot": eot} if (eot := settings.get("eot", 1)) > 1 else {}),
        **({"surrogate": _named(surrogate)} if (surrogate := settings.get("surrogate")) else {}),
    }


def _named(model: Segmenter) -> dict[str, str]:
    return {"model": model.name, "weights_sha256": weights_sha256(model)}
