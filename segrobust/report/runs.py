"""What a report shows of a run folder: checked numbers, and provenance without the names of machines and people."""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from segrobust.analysis.summary import Record
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.checks.basis import digest_of
from segrobust.core.errors import UserError
from segrobust.core.rows import ATTACK, CLEAN, Condition, Row
from segrobust.core.units import format_eps
from segrobust.report.records import checked_records
from segrobust.report.texts import with_norm
from segrobust.report.trust import Trust, load_trust
from segrobust.runs.folder import FORMAT, RunFolder

PRIVATE = re.compile(r"(^|[._])(host|hostname|node|user|username|login|home|cwd|pid|ip|address|email)$", re.I)
_POSIX_PATH = re.compile(r"(?<![\w.:/~<])~?/(?:[^\s/'\"=,;:<>]+/)+")
_WINDOWS_PATH = re.compile(r"(?<!\w)[A-Za-z]:[\\/](?:[^\s\\/'\"=,;:<>]+[\\/])+")
_LONG = ("class_names", "palette")
COMMANDS = ("evaluate", "benchmark", "demo")  # those that make run folders


@dataclass(frozen=True)
class Run:
    """One evaluated model.

    facts: the flattened fields of ``run.json``; settings: what was done to the images, as text by condition; records:
    those of ``summary.json``; images: ``(name, sha256)`` by their place in rows; command: its words, if known.
    """

    label: str
    path: Path
    facts: dict[str, str]
    settings: dict[str, str]
    records: list[Record]
    images: list[tuple[str, str]]
    class_names: list[str]
    palette: list[tuple[int, int, int]]
    trust: Trust | None
    conditions: list[Condition] = field(default_factory=list)
    command: tuple[str, ...] = ()

    @cached_property
    def rows(self) -> list[Row]:
        """Those that results are made from; UserError: damaged ones."""
        return RunFolder(self.path).complete_rows()

    @property
    def num_classes(self) -> int:
        """Those that scores are told of."""
        return max(len(record["iou"]) for record in self.records)

    @property
    def clean(self) -> Record | None:
        return next(iter(self.of_study(CLEAN)), None)

    @property
    def norms(self) -> list[str]:
        """Those with attacks at radii."""
        return list({r["norm"]: None for r in self.of_study(ATTACK) if r["eps"] is not None})

    @property
    def searched(self) -> list[str]:
        """The norms of its minimum-norm attacks."""
        return list({record["norm"]: None for record in self.of_study(ATTACK) if "median_distance" in record})

    def of_study(self, *studies: str) -> list[Record]:
        return [record for record in self.records if record["study"] in studies]

    def attacked(self, norm: str) -> list[Record]:
        """The records of the attacks under one norm, and of their worst cases."""
        return [record for record in self.of_study(ATTACK, WORST_CASE) if record["norm"] == norm]

    def at_radius(self, norm: str, name: str) -> list[Record]:
        """The records of one attack under one norm, by growing radius."""
        mine = [r for r in self.attacked(norm) if r["name"] == name and r["eps"] is not None]
        return sorted(mine, key=lambda record: record["eps"])

    def attack_names(self, norm: str) -> list[str]:
        """The attacks with radii under a norm, the worst case last."""
        names = {r["name"]: None for r in self.attacked(norm) if r["eps"] is not None}
        return [name for name in names if name != WORST_CASE] + [WORST_CASE] * (WORST_CASE in names)

    def greedy(self, norm: str) -> dict[str, dict[float, Record]]:
        """Records by attack and radius whose mIoU differs with the reading (see ``summarise``) at any radius."""
        found = {name: self.at_radius(norm, name) for name in self.attack_names(norm)}
        return {
            name: {record["eps"]: record for record in records}
            for name, records in found.items()
            if any(abs(record.get("mIoU_gap") or 0) >= 0.005 for record in records)
        }

    def distances(self, norm: str) -> list[Record]:
        """The results of minimum-norm attacks under one norm."""
        return [record for record in self.attacked(norm) if "median_distance" in record]

    def all_names(self, norm: str) -> list[str]:
        """``attack_names``, and the minimum-norm attacks that have no radius at all."""
        return list(dict.fromkeys([*self.attack_names(norm), *(one["name"] for one in self.distances(norm))]))


def load_runs(paths: Sequence[Path]) -> list[Run]:
    """Read the run folders to compare; a run is called by the folder name that tells it from the others.

    Raises:
        UserError: no folder, a folder that is no finished run, or a summary with something else than numbers.
    """
    if not paths:
        raise UserError("expected at least one run folder")
    return [_load(path, label) for path, label in zip(paths, run_labels(paths), strict=True)]


def run_labels(paths: Sequence[Path]) -> list[str]:
    """``standard/evaluation`` and ``robust/evaluation`` are called standard and robust, ``a/x`` and ``b/y`` x and y."""
    parts = [path.resolve().parts[::-1] for path in paths]
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
    run, tables = folder.read_json("run.json"), ("identity", "about")
    known = isinstance(run, dict) and run.get("format") == FORMAT
    if not known or not all(isinstance(run.get(name), dict) for name in tables):
        raise UserError(
            f"{path}/run.json: not written by this version of segrobust (expected format {FORMAT}, with "
            f"{' and '.join(tables)}); evaluate again with --fresh"
        )
    fields = run["about"] | run["identity"]
    if isinstance(all_versions := run["about"].get("versions"), dict):  # the identity has those that decide rows
        fields["versions"] = all_versions
    class_names, palette = _classes(fields, path)
    conditions = folder.conditions()
    if surrogates := sorted({one.surrogate for one in conditions if one.surrogate}):
        fields["surrogates"] = surrogates
    images = [(str(entry["name"]), str(entry["sha256"])) for entry in folder.images().entries]
    if images:
        of_all = digest_of(sorted(sha256 for _, sha256 in images))
        fields |= {"images": len(images), "data_fingerprint": of_all}
    records, trust = checked_records(folder.read_json("summary.json"), path), load_trust(path)
    told = facts(fields), _settings(conditions), records, images, class_names, palette, trust
    return Run(label, path, *told, conditions, command_line(run["about"].get("options")))


def command_line(words: Any) -> tuple[str, ...]:
    """The command that made a run, each word as a shell takes it; paths are cut to their last part."""
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        return ()
    words = words if words[0] in COMMANDS else ["evaluate", *words]  # as in runs of older scripts
    return tuple(shlex.quote(shorten_paths(word)) for word in ("segrobust", *words))


def _classes(fields: dict[str, Any], path: Path) -> tuple[list[str], list[tuple[int, int, int]]]:
    names, palette = (fields.get(name) or [] for name in ("class_names", "palette"))
    if not isinstance(names, list) or not isinstance(palette, list) or not all(map(_is_colour, palette)):
        raise UserError(f"{path}/run.json: expected class_names as a list and palette as a list of [r, g, b]")
    return [str(name) for name in names], [tuple(colour) for colour in palette]


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(c) is int and 0 <= c <= 255 for c in value)


def facts(fields: Any, prefix: str = "") -> dict[str, str]:
    """All fields as ``{"versions.torch": "2.14.1"}``; machine and user names left out, paths cut to their last part."""
    if isinstance(fields, dict):
        found: dict[str, str] = {}
        for key, value in fields.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            if key not in _LONG and not PRIVATE.search(name):
                found |= facts(value, name)
        return found
    if isinstance(fields, list) and not any(isinstance(item, (list, dict)) for item in fields):
        return {prefix: shorten_paths(" ".join(map(str, fields)))}
    return {} if fields is None else {prefix: shorten_paths(fields if isinstance(fields, str) else json.dumps(fields))}


def _settings(conditions: Sequence[Condition]) -> dict[str, str]:
    """``{"CEPGD (Linf)": "steps=100, eps=1/255 4/255"}``: the fields of the conditions, without those of candidates."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in conditions:
        radius = {} if one.eps is None else {"eps": format_eps(one.eps, one.norm)}
        severity = {} if one.severity is None else {"severity": one.severity}
        fields = {name: value for name, value in one.fields.items() if name != "type"} | radius | severity
        for name, value in fields.items() if not one.candidate else ():
            found[with_norm(one.name, one.norm)][name].append(shorten_paths(str(value)))
    return {
        name: ", ".join(f"{field}={' '.join(dict.fromkeys(values))}" for field, values in fields.items())
        for name, fields in found.items()
    }


def shorten_paths(text: str) -> str:
    """``/home/someone/x.pth`` as ``x.pth``: a report goes to others. Radii such as ``8/255`` stay."""
    return _WINDOWS_PATH.sub("", _POSIX_PATH.sub("", text))
