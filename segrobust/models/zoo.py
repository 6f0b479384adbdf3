"""The models that come with the package: a JSON config and safetensors weights each, found by listing one folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from segrobust.errors import UserError

FOLDER = Path(__file__).resolve().parent.parent / "zoo"


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


def shipped_weights(config: str | Path) -> Path | None:
    """The weights for a shipped model, given by name or by the path of its config; None for any other config."""
    for entry in zoo().values():
        if str(config) == entry.name or Path(config).resolve() == entry.config_path:
            return entry.weights_path
    return None
