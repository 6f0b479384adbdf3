"""``report.html`` of a training, or of several beside each other: learning curves, best checkpoint, cost, config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segrobust.core.files import clear_io_errors, replace_file
from segrobust.report.columns import Column
from segrobust.report.exports import Sheet, csv_text
from segrobust.report.page import rendered, write_page
from segrobust.report.texts import EN_DASH, count, percent
from segrobust.report.training import CLEAN, DISTANCE, ROBUST, Training, load_trainings
from segrobust.report.training_config import HOOK, VALIDATION, TrainingConfig, described
from segrobust.report.training_curves import COURSE, LEARNING, figures
from segrobust.report.training_pictures import KINDS, classes, snapshots
from segrobust.report.training_verdict import RULE, next_command, overfitting, training_costs, training_verdict
from segrobust.report.views import css, once

SCORES = {CLEAN: "mIoU", ROBUST: "robust mIoU", "aAcc": "aAcc", "robust/aAcc": "robust aAcc",
          DISTANCE: "median norm", "min_norm/found": "found"}  # fmt: skip


def build_training_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write one HTML file about one training, or comparing several.

    Args:
        folders: work dirs of ``segrobust train``, finished or not.
        out: the file; by default ``report.html`` in the first folder.

    Raises:
        UserError: a folder without numbers, a file that cannot be read, or one that cannot be written.
    """
    folders = [Path(folder) for folder in folders]
    page = render_trainings(load_trainings(folders))
    return write_page(folders[0] / "report.html" if out is None else Path(out), page)


def write_training_csv(folders: Sequence[Path], path: Path) -> Path:
    """Write all numbers of trainings as a table, a line per line of their logs; UserError as for the page."""
    text = csv_text(training_sheet(load_trainings([Path(folder) for folder in folders])))
    with clear_io_errors(f"create {path.parent}", "choose another csv"):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.encode(errors="replace"))
    return path


def training_sheet(trainings: Sequence[Training]) -> Sheet:
    """All numbers, by training and iteration; a column per name that any of them logged."""
    found = [(training, line) for training in trainings for line in training.lines]
    names = once(name for _, line in found for name in line.values)
    lines = [
        [training.label, "validation" if line.validation else "training", line.iteration, *map(line.values.get, names)]
        for training, line in found
    ]
    columns = tuple(Column(name, "", "", lambda *_: None) for name in ("training", "kind", "iteration", *names))
    return Sheet(columns, lines, [None] * len(lines), [()] * len(lines))


def render_trainings(trainings: Sequence[Training]) -> str:
    """The page as a string."""
    title = " vs ".join(one.label for one in trainings)
    views = [_view(one) for one in trainings]
    return rendered(
        "training.html.j2",
        (percent, count, css),
        title=title,
        trainings=views,
        rule=RULE,
        learning=figures(trainings, LEARNING, f"{title}: scores over iterations"),
        course=figures(trainings, COURSE, f"{title}: over iterations"),
        compared=[name for name in SCORES if any(name in view["scores"] for view in views)],
        costs=_cost_table(views),
        kinds=KINDS,
        score_names=SCORES,
    )


def _view(training: Training) -> dict[str, Any]:
    """What the template shows of one training."""
    known = {name for line in training.validations for name in line.values}
    return {
        "label": training.label,
        "verdict": training_verdict(training),
        "overfitting": overfitting(training),
        "events": training.log.events,
        "command": next_command(training),
        "best": training.best,
        "scores": [name for name in SCORES if name in known],
        "validations": [(line, training.checkpoint_of(line)) for line in training.validations],
        "costs": training_costs(training),
        "damaged": sum(start.damaged for start in training.starts if start.lines),
        "facts": _facts(training),
        "config": training.config,
        "snapshots": snapshots(training),
        "classes": classes(training),
    }


def _cost_table(views: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """What was counted, and how much of it for each training."""
    names = once(name for view in views for name in view["costs"])
    return [(name, [view["costs"].get(name, EN_DASH) for view in views]) for name in names]


def _facts(training: Training) -> dict[str, str]:
    """What its config says in short; only what is there."""
    config = training.config
    hook, check = (next(iter(config.hooks(kind)), {}) for kind in (HOOK, VALIDATION))
    found = {
        "Config": config.name,
        "Attack in training": described(config.attack),
        "Loss": described(hook.get("loss")),
        "Robust validation": described(check.get("attack")),
        "Images in it": check.get("num_images"),
        "Iterations or epochs": config.at("train_cfg", "max_iters") or config.at("train_cfg", "max_epochs"),
        "Batch size": config.at("train_dataloader", "batch_size"),
        "Optimiser": described(config.at("optim_wrapper", "optimizer")),
        "Seed": _seed(config),
        "Data": config.at("val_dataloader", "dataset", "type"),
    }
    return {name: str(value) for name, value in found.items() if value}


def _seed(config: TrainingConfig) -> str:
    """mmengine draws one where none is set."""
    seed = config.at("randomness", "seed")
    return str(seed) if seed is not None else "none set" if config.fields else ""
