"""A model card for the Hugging Face Hub: what a run measured, as the Hub's own library reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segrobust.analysis.summary import Record
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.core.errors import UserError
from segrobust.core.files import clear_io_errors, replace_file
from segrobust.core.units import format_eps
from segrobust.models.shipped import zoo
from segrobust.report.exports import escaped_markdown, markdown_text, records_sheet
from segrobust.report.runs import Run

EVAL_RESULTS = Path(".eval_results") / "segrobust.yaml"
_TASK, _METRIC = "image-segmentation", "mean_iou"  # the Hub's names
SHIPPED_LICENCE = "apache-2.0"


@dataclass(frozen=True)
class Result:
    """One number of the card. task: its short name. where: threat model and what was run, as the Hub's ``args``."""

    task: str
    title: str
    value: float
    where: dict[str, Any]


def write_model_card(runs: Sequence[Run], path: Path) -> list[Path]:
    """The card (a ``README.md`` with ``model-index``) and beside it ``.eval_results/segrobust.yaml``.

    Args:
        runs: of one model on one data set.

    Raises:
        UserError: runs of several models or on several data, without clean images, or a file that cannot be written.
    """
    _refuse_several(runs)
    results = results_of(runs)
    if not results:
        raise UserError("--model-card: expected a run with the score of clean images or of a worst case; there is none")
    beside = path.parent / EVAL_RESULTS
    with clear_io_errors(f"create {beside.parent}", "choose a --model-card that can be written"):
        beside.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, _card(runs, results).encode())
    replace_file(beside, _yaml(_entries(runs[0], results)).encode())
    return [path, beside]


def _refuse_several(runs: Sequence[Run]) -> None:
    for what, names in (("model", ("weights_sha256", "checkpoint_sha256", "model")), ("data", ("data_fingerprint",))):
        known = {next((run.facts[name] for name in names if name in run.facts), "") for run in runs}
        if len(known) > 1:
            labels = ", ".join(run.label for run in runs)
            raise UserError(f"--model-card: expected runs of one {what}, got several in {labels}; name one of them")


def results_of(runs: Sequence[Run]) -> list[Result]:
    """Clean mIoU, and the lowest known one at each radius of each norm; percent."""
    clean = next((run.clean for run in runs if run.clean and run.clean["mIoU"] is not None), None)
    found = [Result("clean", "mIoU, clean (%)", clean["mIoU"], {})] if clean else []
    lowest: dict[tuple[str, float], tuple[float, Run]] = {}
    for run in runs:
        for record in run.of_study(WORST_CASE):
            value, place = _lowest(record), (record["norm"], record["eps"])
            if value is not None and value < lowest.get(place, (float("inf"), run))[0]:
                lowest[place] = value, run
    for (norm, eps), (value, run) in sorted(lowest.items(), key=lambda one: one[0]):
        radius = format_eps(eps, norm)
        names = [name for name in run.attack_names(norm) if name != WORST_CASE]
        where = {"norm": norm, "eps": eps, "attacks": names}
        task = f"robust-{norm}-{radius}".lower().replace("/", "-")
        found.append(Result(task, f"mIoU, worst case at {norm} {radius} (%)", value, where))
    return found


def _lowest(record: Record) -> float | None:
    known = [record[name] for name in ("mIoU", "mIoU_greedy") if record.get(name) is not None]
    return min(known, default=None)


def _card(runs: Sequence[Run], results: Sequence[Result]) -> str:
    run = runs[0]
    table = markdown_text(records_sheet(runs))
    trust = "; ".join(f"{run.label}: {run.trust.sentence if run.trust else 'no checks were made'}" for run in runs)
    body = [
        f"# {escaped_markdown(_name(run))}",
        f"Measured with segrobust {run.facts.get('versions.segrobust', '')}".rstrip() + ".",
        table.strip(),
        f"Trust checks: {escaped_markdown(trust)}.",
    ]
    return f"---\n{_yaml(_front(run, results))}---\n\n" + "\n\n".join(body) + "\n"


def _front(run: Run, results: Sequence[Result]) -> dict[str, Any]:
    dataset = {"name": _data(run), "type": _data(run)}
    metrics = [
        {"type": _METRIC, "value": one.value, "name": one.title} | ({"args": one.where} if one.where else {})
        for one in results
    ]
    return {
        **({"license": SHIPPED_LICENCE} if _is_shipped(run) else {}),
        "library_name": "segrobust",
        "pipeline_tag": _TASK,
        "tags": ["adversarial-robustness", "semantic-segmentation"],
        "model-index": [
            {"name": _name(run), "results": [{"task": {"type": _TASK}, "dataset": dataset, "metrics": metrics}]}
        ],
    }


def _is_shipped(run: Run) -> bool:
    """Whether these are weights that come with segrobust, the only ones whose licence a run can tell."""
    entry = zoo().get(run.facts.get("config", ""))
    return entry is not None and _sha256(entry.weights_path) == run.facts.get("checkpoint_sha256")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _entries(run: Run, results: Sequence[Result]) -> list[dict[str, Any]]:
    date = {"date": run.facts["date"]} if "date" in run.facts else {}
    return [
        {"dataset": {"id": _data(run), "task_id": one.task}, "value": one.value, **date, "notes": _notes(run, one)}
        for one in results
    ]


def _notes(run: Run, result: Result) -> str:
    attacks = result.where.get("attacks")
    parts = [f"mIoU in percent on {len(run.images)} images", *([f"under {', '.join(attacks)}"] if attacks else [])]
    return ", ".join([*parts, *([f"protocol {run.facts['protocol']}"] if "protocol" in run.facts else [])])


def _name(run: Run) -> str:
    return run.facts.get("config") or run.facts.get("model") or run.label


def _data(run: Run) -> str:
    return run.facts.get("dataset", "unnamed data")


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
