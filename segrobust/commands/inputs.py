"""What ``segrobust evaluate`` loads and where its results go: models, data, the user's own code. Imports no torch."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from segrobust.commands.parsing import cfg_option, work_dir
from segrobust.core.errors import UserError
from segrobust.core.options import Options, existing_file, existing_folder, one_of, option, whole
from segrobust.core.own_code import names_function
from segrobust.datasets.protocols import PROTOCOLS
from segrobust.models.published import PUBLISHED
from segrobust.models.saved import names_saved, saved_model
from segrobust.models.shipped import config_file, shipped_model

CONFIG = "a config file, or a name from `segrobust models`"
OR_FUNCTION = (
    f"{CONFIG}, or FILE.py:FUNCTION, which makes a network, or hf:FOLDER or smp:FOLDER, a model that transformers or "
    "segmentation-models-pytorch saved"
)
CFG_OPTIONS = "change the config, e.g. test_dataloader.dataset.data_root=/data/camvid"
PROTOCOL = (
    "how a paper prepares images and labels, in place of the config's test_dataloader: " + ", ".join(PROTOCOLS) + " "
    "(default: the config's own; of a published model of PIR-AT's, its paper's)"
)
ROOT = "where the data lie: the official archive of the --protocol, or what the config's data sets call data_root"
WEIGHTS = "the averaged (EMA) or the raw weights of a file with both (default: its main entry's, which is told)"
IMPORT = "a Python file or module of your own, which registers attacks, models or data; looked for in this folder too"


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs(Options):
    """Everything that ``segrobust evaluate`` is told besides the settings of the evaluation."""

    config: str = option(MISSING, OR_FUNCTION, flag="", metavar="CONFIG")
    checkpoint: Path | None = option(
        None, "weights: .safetensors or .pth", existing_file, flag="", metavar="CHECKPOINT"
    )
    work_dir: Path | None = option(
        None, "for all results (default: work_dirs/<name of the config>/evaluation)", work_dir, metavar="DIR"
    )
    data: Path | None = option(
        None, "beside FILE.py:FUNCTION, hf:FOLDER or smp:FOLDER: a folder with images and labels (PNGs of class ids) "
        "of the same names", Path, metavar="FOLDER",
    )  # fmt: skip
    split: str | None = option(
        None, "the sub-folder of images and of labels to measure (default: test, val, or the only one)", metavar="NAME"
    )
    protocol: str | None = option(None, PROTOCOL, one_of(*PROTOCOLS), metavar="NAME")
    data_root: Path | None = option(None, ROOT, existing_folder, metavar="DIR")
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
        weights_of(self.config, self.checkpoint, "a CHECKPOINT after it")
        if self.surrogate_checkpoint and not self.surrogate:
            raise UserError("--surrogate-checkpoint needs the --surrogate config that it belongs to")
        if self.surrogate:
            weights_of(self.surrogate, self.surrogate_checkpoint, "a --surrogate-checkpoint")
        object.__setattr__(self, "protocol", self.protocol or self._papers_protocol())
        if self.protocol and (own := self._own_data()):
            raise UserError(f"--cfg-options {own}: --protocol {self.protocol} says it; leave one of the two out")
        folder = self.work_dir or Path("work_dirs") / model_name(self.config) / "evaluation"
        object.__setattr__(self, "work_dir", folder)

    def _papers_protocol(self) -> str | None:
        """What a published model was measured under by its authors, unless its data are changed."""
        return PUBLISHED[self.config].protocol if self.config in PUBLISHED and not self._own_data() else None

    def _own_data(self) -> str | None:
        """What ``--cfg-options`` change of the test data besides their place."""
        keys = (text.partition("=")[0] for text in self.cfg_options)
        return next((key for key in keys if key.startswith("test_dataloader") and not key.endswith(".data_root")), None)


def shipped_name(config: str) -> str | None:
    """Name of the shipped model that ``config`` means; None for a config; UserError: neither."""
    config_file(config)
    entry = shipped_model(config)
    return entry and entry.name


def weights_of(config: str, checkpoint: Path | None, needed: str = "weights") -> Path:
    """The checkpoint, else the weights of a shipped name or of a folder; UserError: none, and what is ``needed``."""
    config_file(config)
    if checkpoint is None and names_saved(config):
        return saved_model(config).weights
    shipped = shipped_model(config)
    if checkpoint is None and config in PUBLISHED:
        file = PUBLISHED[config].file or "the authors published none"
        raise UserError(f"{config}: its weights are not part of segrobust; give {needed}: your own copy ({file})")
    if checkpoint is None and shipped is None:
        what = config if names_function(config) else "a config file"
        raise UserError(f"{what} needs {needed}; only the names in `segrobust models` bring weights")
    return checkpoint or shipped.weights_path


def model_name(config: str) -> str:
    """What tables call the model of a config, of a shipped name or of a function."""
    if names_saved(config):
        return saved_model(config).folder.resolve().name
    file, _, function = config.rpartition(":") if names_function(config) else (config, "", "")
    added = "" if function in ("", "build") else f"-{function}"
    return shipped_name(config) or f"{Path(file).stem}{added}"
