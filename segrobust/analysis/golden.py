"""Published results beside ours: does an evaluation find what a paper reports for the same model, attack and data?

    golden = read_golden(Path("configs/benchmarks/golden/all.json"))
    comparisons = compare(golden, {"pirat-upernet-convnext-t-voc": records})  # as in summary.json, by the model's name

A number that anyone should find again is compared on both sides; one that a stronger attack may undercut, or whose
protocol is only near one of ours, on one: ours is at most theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrobust.analysis.golden_file import GoldenCell, read_cells
from segrobust.analysis.summary import Record
from segrobust.core.attack_specs import parse_spec
from segrobust.core.errors import UserError
from segrobust.core.files import read_json
from segrobust.core.options import existing_file
from segrobust.core.rows import ATTACK, CLEAN, INPUT, Condition

AGREES, BELOW, HIGHER, LOWER = "agrees", "below as expected", "higher than published", "lower than published"
NOT_COMPARABLE, NO_COUNTERPART = "not comparable", "no counterpart"
OWN = "own"  # the protocol of a model that is measured as its own config says
CLASS_MEANS = ("mIoU", "mIoU_greedy", "mAcc")
SAME = 1e-9  # radii, and differences beyond what is allowed
TOLD_APART = ("steps", "step_size", "random_start", "keep")  # settings that attacks of one name differ in here


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """Published numbers that cannot all be right for one model; ``cells`` says where they stand."""

    about: str
    cells: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Golden:
    """Published results, and those among them that contradict each other."""

    cells: tuple[GoldenCell, ...]
    contradictions: tuple[Contradiction, ...] = ()

    def others(self, cell: GoldenCell) -> tuple[GoldenCell, ...]:
        """Those that contradict this one."""
        named = {where for one in self.contradictions if cell.where in one.cells for where in one.cells}
        return tuple(one for one in self.cells if one.where in named - {cell.where})


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One published number beside ours.

    ours: None where there is none to compare; difference: ours minus theirs; allowed: how far it may go; reason: why
    nothing is compared, or what is to be known of it; contradicted_by: other published numbers for the same.
    """

    cell: GoldenCell
    verdict: str
    ours: float | None = None
    difference: float | None = None
    allowed: float | None = None
    reason: str = ""
    contradicted_by: tuple[GoldenCell, ...] = ()


def read_golden(path: Path) -> Golden:
    """Read a file of tables, or one that names several (``files``, beside it) and what contradicts each other there.

    Raises:
        UserError: no such file, or an entry that is none of a table's, and where.
    """
    content = read_json(existing_file(path))
    if not isinstance(content, dict) or content.get("format") != 1:
        raise UserError(f"{path}: expected a file of published results with format 1")
    names = content.get("files", [path.name])
    if not isinstance(names, list) or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise UserError(f"{path}, files: expected names of files beside it, got {names!r}")
    cells = tuple(cell for name in names for cell in read_cells(path.parent / name))
    groups = tuple(_contradiction(one, f"{path}, contradictions") for one in content.get("contradictions", []))
    known = {cell.where for cell in cells}
    if unknown := next((where for one in groups for where in one.cells if where not in known), None):
        raise UserError(f"{path}, contradictions: there is no {', '.join(unknown)}")
    return Golden(cells, groups)


def _contradiction(given: Any, where: str) -> Contradiction:
    try:
        cells = tuple(tuple(map(str, one)) for one in given["cells"])
        return Contradiction(about=str(given["about"]), cells=cells, note=str(given.get("note", "")))
    except (TypeError, KeyError):
        raise UserError(f"{where}: expected an about and cells, got {given!r}") from None


def as_measured(
    records: Iterable[Record], facts: Mapping[str, Any], conditions: Iterable[Condition] = ()
) -> list[Record]:
    """Records with what :func:`compare` looks at besides: the protocol and the metric size of their run (``identity``
    in ``run.json``), and the settings of its attacks."""
    told = {"protocol": facts.get("protocol"), "metric_size": facts.get("metric_size", INPUT)}
    fields = {(one.study, one.name, one.norm, one.eps): dict(one.fields) for one in conditions if not one.candidate}
    found = []
    for record in records:
        key = tuple(record[name] for name in ("study", "name", "norm", "eps"))
        found.append(record | told | ({"fields": fields[key]} if key in fields else {}))
    return found


def compare(golden: Golden, records_by_model: Mapping[str, Sequence[Record]]) -> list[Comparison]:
    """Ours beside every published number of a model that was measured, by the model's name.

    Ours has the same attack, norm, radius and number of gradients per image, and the same settings where they are told
    (:func:`as_measured`); of several, the lowest counts. Data must
    match: another protocol, or more images than the whole split, is not comparable; records without ``protocol``
    (:func:`as_measured`) are taken for those of the right one, and the reason says so.

    The difference may be the cell's tolerance. Fewer images than the whole split are a sample of it, whose score may
    be off by half of its 95 % interval over images as well; a sample without all classes has another mean over
    classes, and is not comparable there.
    """
    return [
        dataclasses.replace(_compared(cell, records_by_model[cell.model]), contradicted_by=golden.others(cell))
        for cell in golden.cells
        if cell.model in records_by_model
    ]


def _compared(cell: GoldenCell, records: Sequence[Record]) -> Comparison:
    fitting = [record for record in records if _fits(cell, record)]
    if not fitting:
        return Comparison(cell=cell, verdict=NO_COUNTERPART, reason=_why_none(cell))
    usable = [record for record in fitting if not _why_not(cell, record)]
    if not usable:
        return Comparison(cell=cell, verdict=NOT_COMPARABLE, reason=_why_not(cell, fitting[0]))
    record = min(usable, key=lambda one: _ours(cell, one))
    ours = _ours(cell, record)
    allowed, difference = cell.tolerance + _sampling(cell, record), ours - cell.value
    if abs(difference) <= allowed + SAME:
        verdict = AGREES
    else:
        verdict = HIGHER if difference > 0 else BELOW if cell.sided == "one" else LOWER
    reason = "" if "protocol" in record else "the protocol of ours is not told"
    return Comparison(cell=cell, verdict=verdict, ours=ours, difference=difference, allowed=allowed, reason=reason)


def _fits(cell: GoldenCell, record: Record) -> bool:
    """Whether the record is of what was done to the images there."""
    if cell.attack == CLEAN:
        return record["study"] == CLEAN
    if cell.attack is None or record["study"] != ATTACK or record.get("surrogate") or record["eps"] is None:
        return False
    same_radius = any(abs(record["eps"] - eps) < SAME for eps in cell.eps)
    same_passes = record["backwards"] is not None and abs(record["backwards"] - cell.backwards) < 0.5
    named = record["name"].partition("#")[0]  # a second one of this name, with other settings, is NAME#2
    same_attack = named in _names(cell.attack) and record["norm"] == cell.norm and _same_settings(cell, record)
    return same_attack and same_radius and same_passes


def _same_settings(cell: GoldenCell, record: Record) -> bool:
    """Whether the attack was set as it says, as far as the record tells."""
    asked, fields = parse_spec(cell.attack), record.get("fields", {})
    return all(fields[name] == asked[name] for name in TOLD_APART if name in asked and name in fields)


def _names(spec: str) -> set[str]:
    """What records call an attack; where no preset is asked for, the published one has the same settings here."""
    given = parse_spec(spec)
    published = f"{given['type']}:published"
    return {published} if "preset" in given else {given["type"], published}


def _why_none(cell: GoldenCell) -> str:
    if cell.attack is None:
        return f"{cell.column} is not part of segrobust as it was published"
    return f"{cell.attack} was not run"


def _why_not(cell: GoldenCell, record: Record) -> str:
    """Why the two are not of the same thing; empty where they are."""
    if cell.sample is not None:
        return f"theirs is of {cell.sample} images that are not named"
    if record["images"] > cell.images:
        return f"ours is of {record['images']} images, {cell.data} {cell.split} has {cell.images}"
    accepted = [cell.protocol] if cell.protocol else list(cell.nearest)
    protocol = record.get("protocol") or OWN
    if "protocol" in record and protocol not in accepted:
        return f"protocol of ours: {protocol}, of theirs: {' or '.join(accepted) or cell.protocol_published}"
    if record.get("metric_size", cell.metric_size) != cell.metric_size:
        return f"ours is measured at the {record['metric_size']} size, theirs at the {cell.metric_size} size"
    if _ours(cell, record) is None:
        return f"ours has no {cell.reads}"
    if record["images"] < cell.images:
        return _why_no_sample(cell, record)
    return ""


def _why_no_sample(cell: GoldenCell, record: Record) -> str:
    if not record["ci"].get(cell.reads):
        return f"ours is of {record['images']} of {cell.images} images, without an interval"
    absent = sum(iou is None for iou in record["iou"])
    if cell.reads in CLASS_MEANS and absent:
        return f"{absent} classes do not occur in our {record['images']} of {cell.images} images"
    return ""


def _ours(cell: GoldenCell, record: Record) -> float | None:
    if cell.reads == "unbroken":
        return None if record.get("broken") is None else 100 - record["broken"]
    return record.get(cell.reads)


def _sampling(cell: GoldenCell, record: Record) -> float:
    """How far a sample of the images may be off the whole split, in points."""
    if record["images"] >= cell.images:
        return 0.0
    low, high = record["ci"][cell.reads]
    return (high - low) / 2
