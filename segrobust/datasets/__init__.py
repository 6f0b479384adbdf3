"""Data: what mmseg lacks (CamVid, the synthetic scenes, a plain folder), and what the evaluator reads.

from segrobust.datasets import source_from_config
source = source_from_config("configs/fpn/...py", split="test", num_images=16)
image, label, name = source[0].image, source[0].label, source[0].name
"""

from importlib import import_module

__all__ = ["Sample", "Source", "source_from_config", "write_scenes"]


def __getattr__(name: str) -> object:
    """Import on first use: the command line reads names of targets without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'scenes' if name == 'write_scenes' else 'source'}"), name)
