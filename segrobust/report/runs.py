"""What a report shows of a run folder: checked numbers, and provenance without the names of machines and people."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrobust.analysis.summary import CLEAN, WORST_CASE
from segrobust.core.errors import UserError
from segrobust.core.units import format_eps
from segrobust.report.trust import Trust, load_trust
from segrobust.runs.folder import RunFolder

_NUMBERS = ("eps", "images", "aAcc", "mAcc", "mIoU", "forwards", "backwards", "seconds", "broken")
_READINGS = ("mIoU_greedy", "mIoU_per_image", "mIoU_gap")
_COST = ("images_per_second", "peak_bytes")
_DISTANCES = ("median_distance", "found", "apsr", "apsr_correct", "median_distance_8bit", "found_8bit")
_OPTIONAL = (*_DISTANCES, *_READINGS, *_COST)
_PRIVATE = re.compile(r"(^|[._])(host|hostname|node|user|username|login|home|cwd|pid|ip|address|email)$", re.I)
_POSIX_PATH = re.compile(r"(?<![\w.:/~<])~?/(?:[^\s/'\"=,;:<>]+/)+")
_WINDOWS_PATH = re.compile(r"(?<!\w)[A-Za-z]:[\\/](?:[^\s\\/'\"=,;:<>]+[\\/])+")
_LONG = ("class_names", "palette", "attacks")


@dataclass(frozen=True)
class Run:
    """One evaluated model: ``facts`` are the flattened fields of ``run.json``, ``records`` of ``summary.json``."""

    label: str
    path: Path
    facts: dict[str, str]
    attacks: dict[str, str]
    records: list[dict[str, Any]]
    class_names: list[str]
    palette: list[tuple[int, int, int]]
    trust: Trust | None = None

    @property
    def clean(self) -> dict[str, Any] | None:
        return next((record for record in self.records if record["attack"] == CLEAN), None)

    def at_radius(self, norm: str, attack: str) -> list[dict[str, Any]]:
        """The records of one attack under one norm, by growing radius."""
        mine = [r for r in self.records if r["attack"] == attack and r["norm"] == norm and r["eps"] is not None]
        return sorted(mine, key=lambda record: record["eps"])

    def attack_names(self, norm: str) -> list[str]:
        """The attacks with radii under a norm, the worst case last."""
        names = {r["attack"]: None for r in self.records if r["norm"] == norm and r["eps"] is not None}
        return [name for name in names if name != WORST_CASE] + [WORST_CASE] * (WORST_CASE in names)

    def greedy(self, norm: str) -> dict[str, dict[float, dict[str, Any]]]:
        """Records by attack and radius whose mIoU differs with the reading (see ``summarise``) at any radius."""
        found = {name: self.at_radius(norm, name) for name in self.attack_names(norm)}
        return {
            name: {record["eps"]: record for record in records}
            for name, records in found.items()
            if any(abs(record.get("mIoU_gap") or 0) >= 0.005 for record in records)
        }

    def of_norm(self, norm: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["norm"] == norm]

    def distances(self, norm: str) -> list[dict[str, Any]]:
        """The results of minimum-norm attacks under one norm."""
        return [record for record in self.of_norm(norm) if "median_distance" in record]

    def all_names(self, norm: str) -> list[str]:
        """``attack_names``, and the minimum-norm attacks that have no radius at all."""
        return list(dict.fromkeys([*self.attack_names(norm), *(one["attack"] for one in self.distances(norm))]))

    @property
    def norms(self) -> list[str]:
        return list({r["norm"]: None for r in self.records if r["eps"] is not None})


def load_runs(paths: list[Path]) -> list[Run]:
    """Read the run folders to compare; a run is called by the folder name that tells it from the others.

    Raises:
        UserError: no folder, a folder that is no finished run, or a summary with something else than numbers.
    """
    if not paths:
        raise UserError("expected at least one run folder")
    return [_load(Path(path), label) for path, label in zip(paths, run_labels(paths), strict=True)]


def run_labels(paths: list[Path]) -> list[str]:
    """``standard/evaluation`` and ``robust/evaluation`` are called standard and robust, ``a/x`` and ``b/y`` x and y."""
    parts = [Path(path).resolve().parts[::-1] for path in paths]
    for names in zip(*parts, strict=False):
        if len(set(names)) == len(names):
            return list(names)
    return [f"{own[0]} ({i})" for i, own in enumerate(parts, start=1)]


def _load(path: Path, label: str) -> Run:
    if not path.is_dir():
        raise UserError(f"{path}: no such run folder")
    folder = RunFolder(path)
    for name in ("run.json", "summary.json"):
        if not (path / name).is_file():
            raise UserError(f"{path} has no {name}: not the folder of a finished run; run the evaluation (again)")
    run = folder.read_json("run.json")
    if not isinstance(run, dict) or not isinstance(run.get("identity"), dict) or not isinstance(run.get("about"), dict):
        raise UserError(f"{path}/run.json: expected the fields identity and about, as segrobust writes them")
    fields = run["about"] | run["identity"]
    if isinstance(all_versions := run["about"].get("versions"), dict):  # the identity has those that decide rows
        fields["versions"] = all_versions
    class_names, palette = _classes(fields, path)
    attacks = fields.get("attacks")
    return Run(
        label=label,
        path=path,
        facts=facts(fields),
        attacks={name: _settings(value) for name, value in attacks.items()} if isinstance(attacks, dict) else {},
        records=_records(folder.read_json("summary.json"), path),
        class_names=class_names,
        palette=palette,
        trust=load_trust(path),
    )


def _classes(fields: dict[str, Any], path: Path) -> tuple[list[str], list[tuple[int, int, int]]]:
    names = fields.get("class_names") or []
    palette = fields.get("palette") or []
    if not isinstance(names, list) or not isinstance(palette, list) or not all(map(is_colour, palette)):
        raise UserError(f"{path}/run.json: expected class_names as a list and palette as a list of [r, g, b]")
    return [str(name) for name in names], [tuple(colour) for colour in palette]


def is_colour(value: Any) -> bool:
    """Whether it is a list of three integers from 0 to 255."""
    return isinstance(value, list) and len(value) == 3 and all(type(c) is int and 0 <= c <= 255 for c in value)


def _records(content: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}/summary.json: expected a list of records, as segrobust writes it")
    return [_record(record, f"{path}/summary.json, record {i}") for i, record in enumerate(content, start=1)]


def _record(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict) or not isinstance(record.get("attack"), str):
        raise UserError(f"{where}: expected the name of an attack")
    norm = record.get("norm")
    checked = {"attack": record["attack"], "norm": None if norm is None else str(norm)}
    for name in (*_NUMBERS, *(key for key in _OPTIONAL if key in record)):
        checked[name] = _number(record.get(name), f"{where}, {name}")
    iou = record.get("iou") or []
    intervals = record.get("ci") or {}
    if not isinstance(iou, list) or not isinstance(intervals, dict):
        raise UserError(f"{where}: expected iou as a list and ci as a table")
    checked["iou"] = [_number(value, f"{where}, iou") for value in iou]
    names = ("aAcc", "mAcc", "mIoU", *(["mIoU_greedy"] if "mIoU_greedy" in checked else []))
    checked["ci"] = {name: _interval(intervals.get(name), f"{where}, ci") for name in names}
    return checked | (_distances(record, where) if "median_distance" in checked else {})


def _distances(record: dict[str, Any], where: str) -> dict[str, Any]:
    """What only the result of a minimum-norm attack has; its interval may be open, a distance null."""
    distances, quantiles = record.get("distances") or [], record.get("quantiles") or {}
    if not isinstance(distances, list) or not isinstance(quantiles, dict):
        raise UserError(f"{where}: expected distances as a list and quantiles as a table")
    intervals = record.get("ci") or {}
    names = ("aAcc", "mAcc", "mIoU", "median_distance")
    return {
        "distances": [_number(value, f"{where}, distances") for value in distances],
        "quantiles": {str(name): _number(value, f"{where}, quantiles") for name, value in quantiles.items()},
        "ci": {name: _interval(intervals.get(name), f"{where}, ci", name == names[-1]) for name in names},
    }


def _interval(value: Any, where: str, may_be_open: bool = False) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or (None in value and not may_be_open):
        raise UserError(f"{where}: expected a lower and an upper bound, got {value!r}")
    return _number(value[0], where), _number(value[1], where)


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{where}: expected a number, got {value!r}")
    return value


def facts(fields: Any, prefix: str = "") -> dict[str, str]:
    """All fields as ``{"versions.torch": "2.14.1"}``; machine and user names left out, paths cut to their last part."""
    if isinstance(fields, dict):
        found: dict[str, str] = {}
        for key, value in fields.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            if key not in _LONG and not _PRIVATE.search(name):
                found |= facts(value, name)
        return found
    if isinstance(fields, list) and not any(isinstance(item, (list, dict)) for item in fields):
        return {prefix: shorten_paths(" ".join(map(str, fields)))}
    return {} if fields is None else {prefix: shorten_paths(fields if isinstance(fields, str) else json.dumps(fields))}


def _settings(value: Any) -> str:
    if not isinstance(value, dict):
        return shorten_paths(str(value))
    fields = {key: field for key, field in value.items() if key != "type"}
    if isinstance(radii := fields.get("eps"), list) and all(type(eps) in (int, float) for eps in radii):
        fields["eps"] = " ".join(format_eps(eps, fields.get("norm", "Linf")) for eps in radii)
    return ", ".join(f"{key}={shorten_paths(str(field))}" for key, field in fields.items())


def shorten_paths(text: str) -> str:
    """``/home/someone/x.pth`` as ``x.pth``: a report goes to others. Radii such as ``8/255`` stay."""
    return _WINDOWS_PATH.sub("", _POSIX_PATH.sub("", text))
