"""Names of models and paths of configs: a shipped model (a JSON config and its weights), a published one, or a file.

Imports no torch, so that the command line can refuse a wrong name at once.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from segrobust.core.errors import UserError
from segrobust.core.own_code import names_function
from segrobust.models.published import PUBLISHED
from segrobust.models.saved import names_saved, saved_model

FOLDER = Path(__file__).resolve().parents[1] / "zoo"
CONFIG_SUFFIXES = (".py", ".json", ".yaml", ".yml")


@dataclass(frozen=True)
class ZooEntry:
    """Where a shipped model lies, and what it is in one sentence (``description`` in its config)."""

    name: str
    config_path: Path
    weights_path: Path
    description: str


def zoo() -> dict[str, ZooEntry]:
    """All shipped models by name, in alphabetical order.

    Raises:
        UserError: a config without its weights (a broken installation).
    """
    entries = {}
    for config in sorted(FOLDER.glob("*.json")):
        weights = config.with_suffix(".safetensors")
        if not weights.is_file():
            raise UserError(f"{weights} is missing beside {config.name}; install segrobust again")
        description = json.loads(config.read_text(encoding="utf-8")).get("description", "")
        entries[config.stem] = ZooEntry(config.stem, config, weights, description)
    return entries


def shipped_model(config: str | Path) -> ZooEntry | None:
    """The shipped model that ``config`` names, or is the file of; None for any other."""
    for entry in zoo().values():
        if str(config) == entry.name or Path(config).resolve() == entry.config_path:
            return entry
    return None


def config_file(config: str | Path) -> Path | None:
    """The file of a shipped model's name or a config's path; None for ``package::...``, published names, functions and
    models that other libraries saved.

    Raises:
        UserError: neither a name of a model nor a config file, or no folder of that library.
    """
    if names_saved(str(config)):
        saved_model(str(config))
        return None
    if entry := shipped_model(config):
        return entry.config_path
    if "::" in str(config) or str(config) in PUBLISHED or names_function(str(config)):
        return None
    file = Path(config).expanduser()
    if file.is_dir():
        raise UserError(f"{config}: expected a config file, this is a directory")
    if not file.exists():
        kinds = {**dict.fromkeys(PUBLISHED, "published"), **dict.fromkeys(zoo(), "shipped")}
        near = difflib.get_close_matches(str(config), kinds, n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(f'the {kinds[name]} model {name}' for name in near)}?" if near else ""
        raise UserError(f"{config}: no such config file, nor a shipped model (`segrobust models` lists them){hint}")
    if file.suffix not in CONFIG_SUFFIXES:
        ending = file.suffix or "nothing"
        raise UserError(f"{config}: expected a config ({', '.join(CONFIG_SUFFIXES)}), got a file ending in {ending}")
    return file
