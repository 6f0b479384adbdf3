"""The cells of a benchmark, a model under a study each, and the options of ``segrobust benchmark``.

Imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from segrobust.commands.benchmark_file import KINDS, BenchmarkFile, BenchmarkModel, BenchmarkStudy, found, naming
from segrobust.commands.inputs import Inputs
from segrobust.commands.network import Network
from segrobust.commands.parsing import work_dir
from segrobust.core.errors import UserError, unknown_name
from segrobust.core.options import Options, existing_file, option, whole
from segrobust.runs.settings import Settings

PLACES = ("config", "checkpoint", "data", "data_root", "surrogate", "surrogate_checkpoint", "mask", "imports")
ALL = "*"


def _same(name: str, default: Any = None, kind: type[Options] = Settings) -> Any:
    """An option of ``segrobust evaluate``, with its check and help, at another default."""
    (field,) = (one for one in dataclasses.fields(kind) if one.name == name)
    return dataclasses.field(default=default, metadata=field.metadata)


@dataclass(frozen=True, kw_only=True, eq=False)
class Benchmarking(Options):
    """The options of ``segrobust benchmark``."""

    file: Path = option(MISSING, "the models and studies: .py or .json", existing_file, flag="", metavar="FILE")
    work_dir: Path | None = option(
        None, "for all results (default: work_dirs/<name>, or <name>-N-images with --num-images N)", work_dir,
        metavar="DIR",
    )  # fmt: skip
    only: tuple[str, ...] = option(
        (), "these alone: a MODEL, a STUDY or MODEL/STUDY, of which either may be *", metavar="NAME",
        many='["ours/standard"]',
    )  # fmt: skip
    num_images: int | None = option(None, "a smaller trial: at most so many images per study", whole(1), metavar="N")
    batch_size: int | str | None = _same("batch_size")
    checks: bool = _same("checks", True)
    share_device: bool = _same("share_device", False)
    accept_different: tuple[str, ...] = _same("accept_different", ())
    dry_run: bool = option(
        False, "time a few passes of what is missing in every cell, tell passes, time and memory, and write nothing"
    )
    fresh: bool = option(False, "discard what an earlier start left of these cells instead of going on with it")

    def settings(self) -> dict[str, Any]:
        """What these options say of every cell, in place of the file."""
        names = ("batch_size", "accept_different", "share_device", "dry_run", "fresh")
        given = {name: getattr(self, name) for name in names if getattr(self, name)}
        return given if self.checks else {**given, "checks": False}


@dataclass(frozen=True, eq=False)
class Cell:
    """A model under a study, and what ``segrobust evaluate`` is told for it; its run is in ``inputs.work_dir``."""

    model: BenchmarkModel
    study: BenchmarkStudy
    inputs: Inputs
    network: Network
    settings: Settings

    def __str__(self) -> str:
        return f"{self.model.name} / {self.study.name}"


def work_dir_of(file: BenchmarkFile, asked: Benchmarking) -> Path:
    """Where the results go; those of a smaller trial not among the others, whose images they would change."""
    trial = "" if asked.num_images is None else f"-{asked.num_images}-images"
    return asked.work_dir or Path("work_dirs") / f"{file.name}{trial}"


def cells_of(file: BenchmarkFile, asked: Benchmarking) -> list[Cell]:
    """The cells that are asked for, model after model.

    Raises:
        UserError: ``only`` names no model or study, a model or checkpoint is not there, or a value is none of its
            option.
    """
    return [_cell(file, asked, model, study) for model, study in _selected(file, asked.only)]


def _selected(file: BenchmarkFile, only: Sequence[str]) -> list[tuple[BenchmarkModel, BenchmarkStudy]]:
    """Models and studies of these words, or all without a word."""
    models, studies = ({one.name for one in named} for named in (file.models, file.studies))
    chosen: set[tuple[str, str]] = set()
    for word in only or (f"{ALL}/{ALL}",):
        model, slash, study = word.partition("/")
        if not slash:
            if word in models & studies:
                raise UserError(f"--only {word}: a model and a study have this name; say {word}/{ALL} or {ALL}/{word}")
            if word not in models | studies:
                raise unknown_name("model or study", word, models | studies)
            model, study = (word, ALL) if word in models else (ALL, word)
        for what, one, known in (("model", model, models), ("study", study, studies)):
            if one not in known | {ALL}:
                raise unknown_name(what, one, known)
        chosen |= {(m, s) for m in models for s in studies if model in (ALL, m) and study in (ALL, s)}
    return [(m, s) for m in file.models for s in file.studies if (m.name, s.name) in chosen]


def _cell(file: BenchmarkFile, asked: Benchmarking, model: BenchmarkModel, study: BenchmarkStudy) -> Cell:
    """The study's options, in whose place stand the model's, in whose place stand those of the command line."""
    given = {**study.options, **model.options, **asked.settings()}
    given |= {"config": model.model, "checkpoint": model.checkpoint}
    for name in PLACES:
        if given.get(name) is not None:
            given[name] = _placed(given[name], file.path.parent)
    given["work_dir"] = work_dir_of(file, asked) / model.name / study.name
    parts = []
    with naming(f"{file.path}, {model.name} / {study.name}"):
        for kind in KINDS:
            names = {field.name for field in dataclasses.fields(kind)}
            parts.append(kind.of(**{name: value for name, value in given.items() if name in names}))
    inputs, network, settings = parts
    if asked.num_images is not None:
        fewer = min(asked.num_images, inputs.num_images or asked.num_images)
        inputs = dataclasses.replace(inputs, num_images=fewer)
    return Cell(model, study, inputs, network, settings)


def _placed(given: Any, folder: Path) -> Any:
    if isinstance(given, list | tuple):
        return [_placed(one, folder) for one in given]
    return found(given, folder) if isinstance(given, str) else given
