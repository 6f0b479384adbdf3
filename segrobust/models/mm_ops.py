"""mmcv without its compiled operators: the parts of ``mmcv.ops`` that are plain PyTorch work all the same.

``mmcv.ops`` is one package and imports the compiled ``mmcv._ext`` in each of its files, so that without it CCNet's
attention, PointRend's and SAN's sampling and all of mmdet are lost, though none of them calls it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from segrobust.core.errors import UserError

EXTENSION = "mmcv._ext"
ADVICE = "which the installed onedl-mmcv lacks: install one that was built with them"


def has_compiled_operators() -> bool:
    """Whether the installed mmcv was built with its operators."""
    return find_spec(EXTENSION) is not None


def import_operators() -> None:
    """Import ``mmcv.ops``; without the compiled operators each of them raises a UserError when it is called.

    To be called before mmseg is imported. Afterwards ``mmcv._ext`` is missing as before, so whoever asks is told so.
    """
    if has_compiled_operators():
        return
    sys.modules[EXTENSION] = _NoOperators(EXTENSION)
    try:
        import mmcv.ops.multi_scale_deform_attn as attention
    finally:
        del sys.modules[EXTENSION]
    attention.IS_CUDA_AVAILABLE = False  # its plain form, which serves every device


def keep_focal_loss_plain() -> None:
    """mmseg's focal loss refuses a GPU when it is built and not in the first step, as without ``mmcv.ops``."""
    if not has_compiled_operators():
        import mmseg.models.losses.focal_loss as focal_loss

        focal_loss._sigmoid_focal_loss = None


class _NoOperators(ModuleType):
    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> Any:
            raise UserError(f"this needs mmcv's compiled operators ({name}), {ADVICE}")

        return missing
