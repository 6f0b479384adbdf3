"""Segmenters by name: what ``model = dict(type="MySegmenter", ...)`` in a config builds.

Every adapter enters by its decorator, ours and those of a module that you import, or that ``--import`` or the config's
``custom_imports`` name. A type that is not here is one of mmseg's.
"""

from __future__ import annotations

from segrobust.core.errors import UserError
from segrobust.core.registry import Registry
from segrobust.models.segmenter import Segmenter

SEGMENTERS: Registry[type[Segmenter]] = Registry("segmenter")


def register_segmenter(cls: type[Segmenter]) -> type[Segmenter]:
    """Make a segmenter known to configs by the name of its class; a decorator.

    Raises:
        UserError: not a subclass of Segmenter, or another one has this name.
    """
    if not (isinstance(cls, type) and issubclass(cls, Segmenter)):
        shown = cls.__name__ if isinstance(cls, type) else repr(cls)
        raise UserError(f"register_segmenter: expected a subclass of Segmenter, got {shown}")
    return SEGMENTERS.add(cls)
