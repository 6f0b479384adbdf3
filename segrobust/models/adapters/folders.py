"""What the adapters of other libraries share: the library itself, a folder of its own, and no way to the network."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import Tensor

from segrobust.core.errors import UserError
from segrobust.models.checkpoint.loading import load_state_dict
from segrobust.models.saved import CONFIG, PROCESSOR, read_object, weights_file


def library(module: str, package: str, extra: str) -> ModuleType:
    """A library that an extra installs; UserError: it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name and error.name.partition(".")[0] != module:
            raise UserError(f"{package} cannot be imported: {error}; pip install 'segrobust[{extra}]'") from error
        raise UserError(f"this model needs the package {package}: pip install 'segrobust[{extra}]'") from error


def located(folder: str, config_folder: Path | None) -> Path:
    """A model's folder, relative to the config's or to the current one."""
    if not isinstance(folder, str | Path):
        raise UserError(f"folder: expected the path of a folder that save_pretrained wrote, got {folder!r}")
    path = Path(folder).expanduser()
    beside = (config_folder or Path()) / path
    return beside if beside.is_dir() else path


def weights_in(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder by the strict reader; UserError: none, an index that leads out of it, a wrong file."""
    file = weights_file(folder)
    if file.suffix != ".json":
        return load_state_dict(file)
    parts = read_object(file).get("weight_map")
    names = sorted(set(parts.values())) if isinstance(parts, dict) else []
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise UserError(f"{file}: expected weight_map, from weights to names of files in this folder")
    return {key: value for name in names for key, value in load_state_dict(folder / name).items()}


def files_sha256(folder: Path) -> dict[str, str]:
    """sha256 of the files that decide logits and hold no weights."""
    files = [folder / name for name in (CONFIG, PROCESSOR) if (folder / name).is_file()]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@contextmanager
def offline() -> Iterator[None]:
    """Inside, Hugging Face's hub answers from local files or not at all, as with ``HF_HUB_OFFLINE=1``."""
    constants = importlib.import_module("huggingface_hub.constants")
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
