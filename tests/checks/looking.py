"""Runs a small evaluation and tells what the checks say of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segrobust.analysis.summary import summarise
from segrobust.checks.context import Context
from segrobust.checks.runner import run_checks
from segrobust.commands.evaluation import evaluate
from segrobust.models.segmenter import Segmenter
from segrobust.runs.environment import about_this_run
from segrobust.runs.executor import Executor
from segrobust.runs.folder import RunFolder
from segrobust.runs.identity import identity_of
from segrobust.runs.images import entries_of
from segrobust.runs.settings import Settings
from segrobust.studies.attack import plan_attacks
from segrobust.studies.base import Study
from segrobust.studies.bench import Bench
from segrobust.studies.clean import Clean
from tests.runs.toy_run import ToySource

# names of checks
BATCH = "independent of the batch"
BEST = "best image returned"
BLIND = "noise, black box and transfer lose"
CLEAN = "clean score as declared"
CORRECT = "gradient correct"
DIFFER = "attacks differ"
FEW = "enough images"
LARGE = "a large radius breaks everything"
LOGITS = "logits, not probabilities"
ONCE = "every image once"
PATHS = "attacked forward is the reported one"
PLAIN = "forward neither samples nor optimises"
REPEATS = "deterministic forward"
SINGLE = "iterations beat a single step"
STATE = "model unchanged, in eval mode"
USABLE = "gradient usable"
VOID = "void ignored"
WITHIN = "within budget and box"
MONOTONE = "monotone in the radius"

RUN = {"attacks": ["CEPGD"], "eps": ["2/255", "8/255"], "steps": 10, "batch_size": 3, "pictures": False}


def look(model: Segmenter, folder: Path, source: ToySource | None = None, **changes: Any) -> dict[str, dict[str, Any]]:
    """The verdicts by name on a run of ``model``."""
    settings = {**RUN, **changes}
    evaluate(model, source or ToySource(), work_dir=folder, **settings)
    return verdicts(folder) if settings.get("checks", True) else {}


def verdicts(folder: Path) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads((folder / "checks.json").read_text())["checks"]}


def levels(found: dict[str, dict[str, Any]], *wanted: str) -> set[str]:
    """Names of the checks with one of the ``wanted`` verdicts."""
    return {name for name, check in found.items() if check["verdict"] in wanted}


def context(
    model: Segmenter,
    folder: Path,
    source: ToySource | None = None,
    studies: Sequence[Study] | None = None,
    **more: Any,
) -> Context:
    """A finished run of ``RUN``, looked at without the runner, and so without what it refuses."""
    bench = Bench(model, source or ToySource())
    studies = [Clean(), *plan_attacks(RUN["attacks"], RUN["eps"], steps=RUN["steps"])] if studies is None else studies
    executor = Executor(bench, studies, RunFolder(folder), RUN["batch_size"], save_adversarial=True)
    return Context(executor, json.loads((folder / "summary.json").read_text()), **more)


def look_again(model: Segmenter, folder: Path, **more: Any) -> dict[str, dict[str, Any]]:
    """The verdicts on what is in the folder now."""
    run_checks(context(model, folder, **more))
    return verdicts(folder)


def finished(model: Segmenter, folder: Path, source: ToySource, studies: Sequence[Study]) -> Executor:
    """A run of any studies, or one more start of it, with its summary."""
    run, settings = RunFolder(folder), Settings.of(batch_size=30)
    bench = Bench(model, source)
    conditions = [condition for study in studies for condition in study.conditions]
    about = about_this_run(bench.device)
    run.open(identity_of(bench, studies, settings), conditions, entries_of(source), about=about)
    executor = Executor(bench, studies, run, settings.batch_size)
    executor.run()
    rows = run.complete_rows()
    run.write_json("summary.json", summarise(rows, source.num_classes, run.timings()))
    return executor
