"""What lies in a checkpoint file, read without running anything in it; every other case is one clear line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from segrobust.core.errors import UserError, as_user_error, first_line
from segrobust.models.checkpoint.unpickle import only_stand_ins, resolved

LOGGER = logging.getLogger(__name__)
CLASSES = "classes"  # among the notes of a safetensors file, which are texts: a JSON list of class names
URL = re.compile(r"[A-Za-z][\w+.-]+:/")  # one slash: a URL that went through Path has lost one
HASHED_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")  # OpenMMLab and torch hub put the sha256's first 8 digits here
MORE_THAN_DATA = re.compile(
    r"nsupported (?:global: )?GLOBAL (\S+)"
    r"|(builtins\.getattr of \S+|numpy dtype \S+|Unsupported operand 1[2-5]\d)"  # the last: a newer protocol
    r"|(Trying to call reduce[^.]*|Can only (?:create|build)[^.]*)"
)


def read_checkpoint(path: str | os.PathLike, trust: bool = False) -> Any:
    """Everything in a checkpoint file, on the CPU, as tensors and plain objects.

    ``trust`` reads a pickle that needs arbitrary code after all, and logs it: such a file can run any program.

    Raises:
        UserError: not a file, not a checkpoint, damaged, or it wants to run code.
    """
    kind, path = file_kind(path), Path(path)
    damaged = "damaged, incomplete or not a checkpoint"
    # a reader fails in its own ways on a damaged file
    with as_user_error(lambda error: f"{path}: {damaged} ({first_line(error)[:160]}); get the file again"):
        if kind == "safetensors":
            return load_file(path)
        _check_hashed_name(path)
        return _read_pickle(path, trust)


def file_kind(path: str | os.PathLike) -> str:
    """``safetensors`` or ``pickle``, by the first bytes; what is neither is refused by name."""
    head = _first_bytes(path)
    if head[8:9] == b"{":
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "pickle"
    if not head:
        raise UserError(f"{path}: the file is empty; was the download or the disk cut short?")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise UserError(f"{path}: this is a web page (HTML), not a checkpoint; get the file that the page links to")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: this is a Git LFS pointer, not the file itself; run `git lfs pull`")
    if head.startswith(b"\x1f\x8b"):
        raise UserError(f"{path}: this is a compressed file (gzip); unpack it and give the checkpoint inside")
    raise UserError(f"{path}: this is no checkpoint; expected safetensors or a file of torch.save")


def _first_bytes(path: str | os.PathLike) -> bytes:
    if URL.match(os.fspath(path)):
        raise UserError(f"{path}: nothing is downloaded here; fetch the file yourself, check it, and give its path")
    if os.path.isdir(path):
        raise UserError(f"{path}: expected a checkpoint file, this is a directory")
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such checkpoint file")
    try:
        with open(path, "rb") as file:
            return file.read(512)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def sha256(path: str | os.PathLike) -> str:
    """The file's sha256 in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_hashed_name(path: Path) -> None:
    promised = HASHED_NAME.search(path.name)
    if promised and not (found := sha256(path)).startswith(promised[1]):
        LOGGER.warning(
            "%s: the name promises a sha256 of %s..., the file has %s...; it was changed or cut short",
            path,
            promised[1],
            found[:8],
        )


def _read_pickle(path: Path, trust: bool) -> Any:
    try:
        with only_stand_ins(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on old formats is for those who write them
            return resolved(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        found = MORE_THAN_DATA.search(str(error))
        if found is None:
            raise
        reason = next(filter(None, found.groups()))[:120]
        if not trust:
            raise UserError(
                f"{path}: refused, it holds more than plain weights ({reason}), and reading it could run any program; "
                "get it as safetensors or plain weights, or, only if you made it yourself, use --trust-checkpoint"
            ) from error
    LOGGER.warning("%s: trust_checkpoint is set: read with more than plain weights in it (%s)", path, reason)
    return torch.load(path, map_location="cpu", weights_only=False)


def stored_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The class names, in order, that a file holds beside its weights; empty where there are none.

    UserError: as :func:`read_checkpoint`.
    """
    return class_names_in(safetensors_notes(path) if file_kind(path) == "safetensors" else read_checkpoint(path))


def safetensors_notes(path: str | os.PathLike) -> dict[str, str]:
    """The texts that a safetensors file holds beside its tensors; empty for a file of torch.save."""
    if file_kind(path) != "safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def class_names_in(content: Any) -> tuple[str, ...]:
    """The names that mmengine (``meta.dataset_meta.classes``), mmseg 0.x (``meta.CLASSES``) or our conversion stored.

    Args:
        content: of a file of torch.save, or the notes of a safetensors file.
    """
    if not isinstance(content, Mapping):
        return ()
    meta, names = content.get("meta"), None
    if isinstance(meta, Mapping):
        data = meta.get("dataset_meta")
        names = data.get("classes") if isinstance(data, Mapping) else meta.get("CLASSES")
    elif isinstance(stored := content.get(CLASSES), str):
        with contextlib.suppress(ValueError, RecursionError):
            names = json.loads(stored)
    known = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if known else ()
