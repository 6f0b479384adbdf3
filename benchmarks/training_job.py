"""A recipe of an architecture in its folder: what training_table.py knows of it from call to call."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine import Config

from segrobust.core.errors import UserError
from segrobust.core.files import read_json, replace_file

STATE = "job.json"


@dataclass
class Job:
    """A recipe of an architecture in a folder of its own, and what was done of it.

    config: None where it is only looked at.
    state: ``settings``; once its training has begun ``iterations``, ``passes`` and ``seconds`` of an iteration; what
    failed; results by the settings of the evaluation.
    retry: it failed in an earlier call, and this one has not tried it yet.
    """

    architecture: str
    recipe: str
    folder: Path
    config: Config | None
    state: dict[str, Any] = field(default_factory=dict)
    retry: bool = False

    @classmethod
    def opened(
        cls, architecture: str, recipe: str, folder: Path, config: Config | None, settings: dict[str, Any]
    ) -> Job:
        """UserError: a training with other settings is there."""
        file = folder / STATE
        state = read_json(file) if file.is_file() else {"settings": settings}
        for name, value in settings.items():
            if (before := state["settings"].get(name)) != value:
                raise UserError(f"{folder} holds a training with {name} {before}, and now it is {value}: take the same "
                                "again, or another --work-dir")  # fmt: skip
        return cls(architecture, recipe, folder, config, state, retry=config is not None and "failed" in state)

    @property
    def name(self) -> str:
        return f"{self.architecture}/{self.recipe}"

    @property
    def training(self) -> Path:
        return self.folder / "training"

    @property
    def weights(self) -> Path:
        return self.folder / f"camvid-{self.architecture}-{self.recipe}.safetensors"

    @property
    def checkpoint(self) -> Path | None:
        """The last one, if any."""
        pointer = self.training / "last_checkpoint"
        file = self.training / Path(pointer.read_text().strip()).name if pointer.is_file() else None
        return file if file is not None and file.is_file() else None

    @property
    def done(self) -> int:
        return int(self.checkpoint.stem.removeprefix("iter_")) if self.checkpoint else 0

    @property
    def planned(self) -> int | None:
        """The iterations of a training that is begun; one without a checkpoint is not."""
        return self.state["iterations"] if self.done else None

    @property
    def trained(self) -> bool:
        return self.planned is not None and self.done >= self.planned

    def failure(self, evaluation: str) -> str | None:
        """Why there is no result under these settings of the evaluation; None where it did not fail."""
        return None if evaluation in self.state.get("evaluations", {}) else self.state.get("failed")

    def begin(self) -> None:
        """Forget that it failed."""
        self.state.pop("failed", None)
        self.retry = False

    def keep(self, **changes: Any) -> None:
        self.state |= changes
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.folder / STATE, (json.dumps(self.state, indent=1) + "\n").encode())
