"""A folder of data, as a data set is published or one's own with ``images`` and ``labels``: the data of a config.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError, unknown_name
from segrobust.datasets.layouts import Layout, official, packed

TESTED = ("test", "val")  # the split that is measured, in order of preference
CLASSES_FILE = "classes.json"


def folder_data(
    folder: Path,
    split: str | None = None,
    class_names: Sequence[str] = (),
    ignore_index: int = 255,
    reduce_labels: bool = False,
) -> dict[str, Any]:
    """A config's ``test_dataloader`` on ``images/<split>`` and ``labels/<split>``, or on ``images`` and ``labels``.

    What is trained on and fitted on comes from the splits ``train`` and ``val``, where they are there besides. A folder
    in the layout of a published data set (:mod:`segrobust.datasets.layouts`) is read as that one, with its classes.

    Args:
        split: the one to measure; None takes ``test``, else ``val``, else the only one.
        class_names: in the order of the ids; without any, ``classes.json`` in the folder names them.
        reduce_labels: id 0 is void, and every other id is one more than its class.

    Raises:
        UserError: no such folder or split, or several among which there is none to prefer.
    """
    if found := published(folder):
        return _published_data(*found, split)
    known = splits_in(folder)
    measured = _measured(folder, known, split)
    others = {name: name for name in ("train", "val") if name in known and name != measured}

    def loader(name: str) -> dict[str, Any]:
        data = {"type": "ImageLabelFolder", "data_root": str(folder), "split": name, "ignore_index": ignore_index}
        if reduce_labels:
            data["reduce_zero_label"] = True
        if class_names:
            data["metainfo"] = {"classes": tuple(class_names)}
        return {"dataset": {**data, "test_mode": True, "pipeline": [{"type": "LoadPair"}, {"type": "PackSegInputs"}]}}

    return {f"{use}_dataloader": loader(name) for use, name in {"test": measured, **others}.items()}


def published(folder: Path) -> tuple[Layout, Path] | None:
    """The layout of a published data set and its root, unless the folder holds ``images`` and ``labels``.

    Raises:
        UserError: labels in a form that is not read.
    """
    own = all((folder / name).is_dir() for name in ("images", "labels"))
    return None if own else official(folder)


def _published_data(layout: Layout, root: Path, split: str | None) -> dict[str, Any]:
    parts = layout.parts(root)
    if split is not None and split not in parts:
        raise unknown_name("split", split, parts)
    measured = split or next(name for name in (layout.measured, *TESTED, *parts) if name in parts)
    others = {name: parts[name] for name in ("train", "val") if name in parts and name != measured}
    return {f"{use}_dataloader": {"dataset": data} for use, data in {"test": parts[measured], **others}.items()}


def splits_in(folder: Path) -> list[str]:
    """The sub-folders of ``images``; ``""`` where files lie in it; UserError: no ``images`` or ``labels``."""
    if not folder.is_dir():
        raise UserError(f"no such folder of data: {str(folder)!r}")
    if missing := [name for name in ("images", "labels") if not (folder / name).is_dir()]:
        there = ", ".join(sorted(child.name for child in folder.iterdir())[:8]) or "nothing"
        there += f"; unpack {', '.join(archives[:3])}" if (archives := packed(folder)) else ""
        raise UserError(
            f"{folder}: expected the folders images and labels, with files of the same names (labels: PNGs of class "
            f"ids) in them or in sub-folders such as test; {' and '.join(missing)} missing, found {there}; "
            "`segrobust data check --help` shows these and the layouts of published data sets"
        )
    children = sorted(child for child in (folder / "images").iterdir() if not child.name.startswith("."))
    return [*([""] if any(child.is_file() for child in children) else []), *(c.name for c in children if c.is_dir())]


def _measured(folder: Path, known: list[str], split: str | None) -> str:
    if split is not None:
        if split not in known:
            raise unknown_name("split", split, [name for name in known if name])
        return split
    if not known:
        raise UserError(f"{folder / 'images'}: expected images, or sub-folders of them such as test; it is empty")
    preferred = next((name for name in ("", *TESTED) if name in known), None)
    if preferred is None and len(known) > 1:
        raise UserError(f"{folder}: which of {', '.join(known)} is to be measured? Say split=... (--split)")
    return known[0] if preferred is None else preferred
