"""What ``segrobust evaluate`` loads and where its results go: models, data, the user's own code. Imports no torch."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from segrobust.commands.parsing import cfg_option, work_dir
from segrobust.core.errors import UserError
from segrobust.core.options import Options, existing_file, one_of, option, whole
from segrobust.models.shipped import config_file, shipped_model

CONFIG = "a config file, or a name from `segrobust models`"
CFG_OPTIONS = "change the config, e.g. test_dataloader.dataset.data_root=/data/camvid"
WEIGHTS = "the averaged (EMA) or the raw weights of a file with both (default: its main entry's, which is told)"
IMPORT = "a Python file or module of your own, which registers attacks, models or data; looked for in this folder too"


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs(Options):
    """Everything that ``segrobust evaluate`` is told besides the settings of the evaluation."""

    config: str = option(MISSING, CONFIG, flag="", metavar="CONFIG")
    checkpoint: Path | None = option(
        None, "weights: .safetensors or .pth", existing_file, flag="", metavar="CHECKPOINT"
    )
    work_dir: Path | None = option(
        None, "for all results (default: work_dirs/<name of the config>/evaluation)", work_dir, metavar="DIR"
    )
    num_images: int | None = option(None, "evenly spaced images (default: all)", whole(1), metavar="N")
    surrogate: str | None = option(
        None, "attack this model instead, and measure the images on CONFIG (transfer)", metavar="CONFIG"
    )
    surrogate_checkpoint: Path | None = option(
        None, "weights of the --surrogate config", existing_file, metavar="CHECKPOINT"
    )
    imports: tuple[str, ...] = option((), IMPORT, flag="--import", metavar="FILE", many='["my_attack.py"]')
    cfg_options: tuple[str, ...] = option((), CFG_OPTIONS, cfg_option, metavar="K=V", many='["a.b=1"]')
    weights: str | None = option(None, WEIGHTS, one_of("ema", "raw"), metavar="{ema,raw}")
    checkpointing: bool = option(
        False, "recompute activations in the backward pass: less memory, more time, the same numbers"
    )
    channels_last: bool = option(True, "the weights' memory format channels-last: keep the usual one")
    trust_checkpoint: bool = option(False, "load a pickle that may run ANY code")

    def __post_init__(self) -> None:
        super().__post_init__()
        shipped = shipped_name(self.config)
        if self.checkpoint is None and shipped is None:
            raise UserError(
                "a config file needs a CHECKPOINT after it; only the names in `segrobust models` bring weights"
            )
        if self.surrogate_checkpoint and not self.surrogate:
            raise UserError("--surrogate-checkpoint needs the --surrogate config that it belongs to")
        if self.surrogate:
            shipped_name(self.surrogate)
        folder = self.work_dir or Path("work_dirs") / (shipped or Path(self.config).stem) / "evaluation"
        object.__setattr__(self, "work_dir", folder)


def shipped_name(config: str) -> str | None:
    """Name of the shipped model that ``config`` means; None for a config; UserError: neither."""
    config_file(config)
    entry = shipped_model(config)
    return entry and entry.name


def model_name(config: str) -> str:
    """What tables call the model of a config or of a shipped name."""
    return shipped_name(config) or Path(config).stem
