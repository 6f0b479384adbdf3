"""What decides rows whatever their condition and image: starts with the same identity may share a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segrobust.core.version import __version__
from segrobust.models.digests import model_identity, tensor_sha256
from segrobust.runs.environment import environment_of, memory_format_of
from segrobust.runs.settings import Settings
from segrobust.runs.users_code import users_code
from segrobust.studies.base import Study
from segrobust.studies.bench import Bench


def identity_of(bench: Bench, studies: Sequence[Study], settings: Settings) -> dict[str, Any]:
    """Model, data, ``settings`` of the run and what computes, as JSON values."""
    model, source = bench.model, bench.source
    code = users_code([model, *(part for study in studies for part in study.made_of)])
    return {
        "segrobust": __version__,
        **environment_of(bench.device),
        **({"users_code": code} if code else {}),
        **model_identity(model),
        "num_classes": model.num_classes,
        "class_names": list(source.class_names),
        "palette": [list(colour) for colour in source.palette],
        "data_recipe": getattr(source, "recipe", ""),
        "memory_format": memory_format_of(model),
        **({"deterministic": True} if bench.device.type == "cuda" else {}),
        **settings.identity(),
        **({"target": bench.target.identity()} if bench.target else {}),
        **({"mask_sha256": tensor_sha256(bench.mask)} if bench.mask is not None else {}),
    }
