"""The table of training_table.py as JSON and Markdown, its plan as text, and the costs that it measured."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.training_recipes import Work
from segrobust.core.files import read_json, replace_file

EACH, TOGETHER = 5.0, 20.0  # MB that may be shipped
COSTS = "state/costs.json"
COLUMNS = (
    "",
    "architecture",
    "recipe",
    "iterations",
    "passes",
    "s/iteration",
    "hours",
    "clean aAcc",
    "clean mIoU",
    "in float32",
    "worst aAcc",
    "worst mIoU (greedy)",
    "95 %",
    "MB",
    "ships",
)


def read_costs(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds by job, and of an evaluation by architecture, measured under the same facts; else none."""
    file = folder / COSTS
    known = read_json(file) if file.is_file() else {}
    return known.get("costs", {}) if known.get("facts") == dict(facts) else {}


def write_costs(folder: Path, facts: Mapping[str, Any], costs: Mapping[str, Any]) -> None:
    _write(folder / COSTS, {"facts": dict(facts), "costs": dict(costs)})


def describe(works: Mapping[str, Work], planned: Mapping[str, int]) -> str:
    """A line per recipe that has something to do."""
    lines = []
    for name, one in works.items():
        minutes = (planned[name] * one.iteration + (0.0 if one.trained else one.setup)) / 60
        going_on = f" after {one.done} of {one.planned}" if one.planned is not None else ""
        lines.append(
            f"{name}: {planned[name]} iterations{going_on} of {one.iteration:.3g} s, {minutes:.1f} min, and "
            f"{one.evaluation / 60:.1f} min of evaluation"
        )
    return "\n".join(lines or ["nothing is left to do"])


def rows_of(jobs: Iterable[Any], how: Any) -> list[dict[str, Any]]:
    """One per job, the highest worst-case mIoU first, those without one at the end."""
    rows = [_row(job, how) for job in jobs]
    rows.sort(key=lambda row: -row["worst"]["mIoU_greedy"] if "worst" in row else math.inf)
    done = [row for row in rows if "worst" in row]
    for rank, (row, ships) in enumerate(zip(done, shipped([row["megabytes"] for row in done]), strict=True), start=1):
        row |= {"rank": rank, "ships": ships}
    return rows


def shipped(megabytes: Sequence[float]) -> list[bool]:
    """Which files may be shipped, those of the best rows first: not above 5 MB each and 20 MB together."""
    found, used = [], 0.0
    for size in megabytes:
        fits = size <= EACH and used + size <= TOGETHER
        used += size if fits else 0.0
        found.append(fits)
    return found


def _row(job: Any, how: Any) -> dict[str, Any]:
    state, seconds = job.state, job.state.get("seconds")
    row = {"architecture": job.architecture, "recipe": job.recipe, "state": _told(job, how)}
    if job.failure(how.key) or not job.done:
        return row
    row |= {
        "iterations": job.done,
        "planned": state["iterations"],
        "passes": round(state["passes"] * job.done),
        "seconds_per_iteration": seconds,
        "hours": None if seconds is None else seconds * job.done / 3600,
        "weights": str(job.weights) if "megabytes" in state else None,
        "megabytes": state.get("megabytes"),
        "commands": _commands(job, how),
    }
    return row | state.get("evaluations", {}).get(how.key, {})


def _told(job: Any, how: Any) -> str:
    if failure := job.failure(how.key):
        return f"failed: {failure}"
    if not job.done:
        return "not begun"
    if job.done < job.planned:
        return f"paused after {job.done} of {job.planned} iterations"
    return "done" if how.key in job.state.get("evaluations", {}) else "trained, not evaluated"


def _commands(job: Any, how: Any) -> list[str]:
    """What trains and what evaluates it again."""
    config, again = str(job.folder / "config.py"), str(job.folder / "again")
    asked = f"--attack standard --eps {how.eps} --steps {how.steps} --num-images {how.num_images}"
    split = "--cfg-options test_dataloader.dataset.split=val"
    return [
        f"segrobust train {shlex.quote(config)} --work-dir {shlex.quote(again)}",
        f"segrobust evaluate {shlex.quote(config)} {shlex.quote(str(job.weights))} {asked} "
        f"--batch-size {how.batch_size} {split} --work-dir {shlex.quote(again)}/evaluation",
    ]


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """``table.json`` and ``table.md``, each whole or not at all; the text of the latter."""
    _write(folder / "table.json", {"facts": dict(facts), "rows": list(rows)})
    text = markdown(rows, facts)
    replace_file(folder / "table.md", text.encode())
    return text


def markdown(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    told = ", ".join(f"{name} {value}" for name, value in facts.items())
    lines = [f"CamVid, validation split; {told}. Scores in percent.", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows if "worst" in row]
    others = [f"* {row['architecture']}/{row['recipe']}: {row['state']}" for row in rows if "worst" not in row]
    commands = [command for row in rows if "worst" in row for command in row["commands"]]
    lines += ["", *others] if others else []
    lines += ["", "```", *commands, "```"] if commands else []
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    clean, worst, interval = row["clean"], row["worst"], row["interval"]
    return [
        str(row["rank"]),
        row["architecture"],
        row["recipe"],
        str(row["iterations"]),
        str(row["passes"]),
        _decimals(row["seconds_per_iteration"]),
        _decimals(row["hours"]),
        _percent(clean["aAcc"]),
        _percent(clean["mIoU"]),
        _percent(row["clean_mIoU_float32"]),
        _percent(worst["aAcc"]),
        _percent(worst["mIoU_greedy"]),
        " to ".join(map(_percent, interval)) if interval else "-",
        f"{row['megabytes']:.2f}",
        "yes" if row["ships"] else "no",
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _decimals(value: float | None) -> str:
    """``-`` for a training that was killed before its time was kept."""
    return "-" if value is None else f"{value:.3f}"


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, (json.dumps(content, indent=1) + "\n").encode())
