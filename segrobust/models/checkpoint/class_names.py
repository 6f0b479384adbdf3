"""The classes of the data that a checkpoint was trained on, as its trainer stored them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from segrobust.models.checkpoint.reading import file_kind, read_checkpoint


def stored_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The class names, in order, that mmengine (``meta.dataset_meta.classes``) or mmseg 0.x (``meta.CLASSES``) stored.

    Empty where there are none. UserError: as :func:`segrobust.models.checkpoint.loading.load_state_dict`.
    """
    content = read_checkpoint(path) if file_kind(path) == "pickle" else None
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        return ()
    data = meta.get("dataset_meta")
    names = data.get("classes") if isinstance(data, Mapping) else meta.get("CLASSES")
    known = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if known else ()
