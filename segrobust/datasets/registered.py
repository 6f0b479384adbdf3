"""What a part of a config stands for: its ``type=`` is a name in a registry, or the class itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.registry import Registry


def type_name(settings: Any) -> str:
    """The name of the type without its scope; of an object that is built already, that of its class."""
    kind = settings.get("type") if isinstance(settings, Mapping) else type(settings)
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")


def registered_type(settings: Any, registry: Registry) -> type | None:
    """The class of the type, None where there is none; of an object that is built already, its class."""
    kind = settings.get("type") if isinstance(settings, Mapping) else type(settings)
    return registry.get(kind) if isinstance(kind, str) else kind


def metainfo_of(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Classes and palette as a data set's config, or else its type, tells them, without building it."""
    from mmseg.registry import DATASETS

    own = getattr(registered_type(dataset, DATASETS), "METAINFO", None)
    return {**(own or {}), **(dataset.get("metainfo") or {})}
