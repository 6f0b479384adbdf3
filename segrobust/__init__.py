"""segrobust: train, attack and benchmark adversarially robust semantic segmenters.

For example::

    from segrobust import Segmenter, build_attack, evaluate, load_segmenter
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segrobust.attacks import build_attack, register_attack
    from segrobust.commands.data import source_from_config
    from segrobust.commands.evaluation import evaluate
    from segrobust.datasets.mm import ImageLabelFolder
    from segrobust.datasets.source import Sample
    from segrobust.models.load import load_segmenter
    from segrobust.models.registry import register_segmenter
    from segrobust.models.segmenter import Segmenter

from segrobust.core.version import __version__

__all__ = [
    "ImageLabelFolder",
    "Sample",
    "Segmenter",
    "__version__",
    "build_attack",
    "evaluate",
    "load_segmenter",
    "register_attack",
    "register_segmenter",
    "source_from_config",
]

_HOME = {
    "ImageLabelFolder": "segrobust.datasets.mm",
    "Sample": "segrobust.datasets.source",
    "Segmenter": "segrobust.models.segmenter",
    "build_attack": "segrobust.attacks",
    "evaluate": "segrobust.commands.evaluation",
    "load_segmenter": "segrobust.models.load",
    "register_attack": "segrobust.attacks",
    "register_segmenter": "segrobust.models.registry",
    "source_from_config": "segrobust.commands.data",
}


def __getattr__(name: str) -> object:
    """Import on first use, so that ``import segrobust`` stays light (no torch)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "ImageLabelFolder":  # a class of mmseg's kind: mmseg comes quietly, and builds nothing unsafe
        import_module("segrobust.models.mm").import_mmseg()
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
