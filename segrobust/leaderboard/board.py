"""A leaderboard is a folder: what was added is kept, entries are computed from that, and the page from entries."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError, unknown_name
from segrobust.core.files import clear_io_errors, only_process, replace_file
from segrobust.leaderboard.entry import Entry, base_of, entry_id, make_entry, model_key, norms_of
from segrobust.leaderboard.evidence import Evidence, keep, read_evidence
from segrobust.leaderboard.files import read_table, write_table
from segrobust.leaderboard.page import render
from segrobust.leaderboard.ranking import table_of
from segrobust.leaderboard.schemas import check_schema
from segrobust.leaderboard.submissions import Measured, Submission, store_images, store_rows, submissions_of


class Board:
    """``entries``, ``evidence``, ``submissions``, ``leaderboard.json`` and ``index.html`` in a folder."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def entry_files(self) -> list[Path]:
        return sorted((self.path / "entries").glob("*.json"))

    def entries(self) -> list[Entry]:
        """All of them by their ids; UserError: a file that is none."""
        entries = [read_table(file) for file in self.entry_files()]
        for entry, file in zip(entries, self.entry_files(), strict=True):
            check_schema("entry", entry, file)
        return entries

    def entry(self, name: str) -> Entry:
        """One by its id; UserError: there is no such entry."""
        known = {entry["id"]: entry for entry in self.entries()}
        if not known:
            raise UserError(f"{self.path} is no leaderboard, or has no entry; add one with `segrobust leaderboard add`")
        if name not in known:
            raise unknown_name("entry", name, known)
        return known[name]

    def evidence(self, name: str) -> Evidence:
        return read_evidence(self.path / "evidence" / name, name)

    def base(self, entry: Entry) -> Evidence:
        """The run whose images the entry is about."""
        evidences = [self.evidence(one["run"]) for one in entry["evidence"]]
        return base_of(evidences, entry["threat_model"]["norm"])

    def made_again(self, entry: Entry) -> Entry:
        """The entry as it follows from what is kept; UserError: something is missing, edited or damaged."""
        evidences = [self.evidence(one["run"]) for one in entry["evidence"]]
        submissions = submissions_of(self.path, entry["id"])
        return make_entry(self.path, evidences, submissions, entry["threat_model"]["norm"], entry["told"])

    def add(self, run_dirs: Sequence[Path], told: Mapping[Path, Mapping[str, Any]]) -> list[str]:
        """Keep finished runs and return the ids of the entries that they make or change.

        Args:
            told: for each run what is said of its model; what an entry has already stays where nothing is said.

        Raises:
            UserError: a run that is not finished or was edited, or one without an attack at a radius whose model has no
                entry; nothing is kept then.
        """
        given = [(run_dir, read_evidence(run_dir)) for run_dir in run_dirs]  # all are looked at before one is kept
        known = self._by_model()
        attacked = {model_key(one.identity) for _, one in given if norms_of([one])} | set(known)
        for run_dir, one in given:
            if model_key(one.identity) not in attacked:
                raise UserError(f"{run_dir}: expected a run with an attack at some radius, which an entry is about, or "
                                "one of a model that has an entry")  # fmt: skip
        with self._held():
            said: dict[str, dict[str, Any]] = {}
            for run_dir, one in given:
                key = model_key(one.identity)
                names, earlier = known.get(key, ([], {}))
                known[key] = list(dict.fromkeys([*names, keep(run_dir, self.path)])), earlier
                said[key] = said.get(key, {}) | {name: v for name, v in told.get(run_dir, {}).items() if v is not None}
            return [made for key, new in said.items() for made in self._make(*known[key], new)]

    def _by_model(self) -> dict[str, tuple[list[str], dict[str, Any]]]:
        """Names of the runs kept of every model, and what was told of it."""
        found: dict[str, tuple[list[str], dict[str, Any]]] = {}
        for entry in self.entries():
            names = [one["run"] for one in entry["evidence"]]
            key = model_key(self.evidence(names[0]).identity)
            found[key] = list(dict.fromkeys([*found.get(key, ([], {}))[0], *names])), entry["told"]
        return found

    def _make(self, names: Sequence[str], earlier: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
        evidences = [self.evidence(name) for name in names]
        for norm in norms_of(evidences):
            name = entry_id(base_of(evidences, norm), norm)
            submissions = submissions_of(self.path, name)
            yield self._write(make_entry(self.path, evidences, submissions, norm, {**earlier, **new}))

    def _write(self, entry: Entry) -> str:
        file = self.path / "entries" / f"{entry['id']}.json"
        check_schema("entry", entry, file)
        write_table(file, entry)
        return entry["id"]

    def submit_images(self, name: str, measured: Sequence[Measured], about: Mapping[str, Any]) -> Submission | None:
        """Count attacked images that were measured here, and make the entry again; None, and nothing is kept, where
        they lower no score."""
        with self._held():
            submission = store_images(self.path, name, measured, about)
            entry = self.made_again(self.entry(name))
            if submission.number not in {one["lowered_by"] for one in entry["robust"]}:
                shutil.rmtree(submission.folder)
                return None
            self._write(entry)
        return submission

    def submit_rows(self, name: str, run_dir: Path, about: Mapping[str, Any]) -> Submission:
        """Keep another's run beside an entry; it is shown and lowers nothing.

        Raises:
            UserError: a run of another model or protocol, without the entry's norm, or on none of its images.
        """
        entry, given = self.entry(name), read_evidence(run_dir)
        base = self.base(entry)
        if model_key(given.identity) != model_key(base.identity):
            raise UserError(f"{run_dir}: expected a run of the entry's weights and protocol, got those of "
                            f"{given.identity.get('model')!r}; they differ")  # fmt: skip
        norm = entry["threat_model"]["norm"]
        if norm not in norms_of([given]) or not base.places.keys() & given.places.keys():
            raise UserError(f"{run_dir}: expected attacks under {norm} on images of the entry, got none")
        with self._held():
            submission = store_rows(self.path, name, run_dir, about)
            self._write(self.made_again(entry))
        return submission

    def table(self) -> dict[str, Any]:
        """What ``leaderboard.json`` is to hold."""
        return table_of(self.entries())

    def build(self) -> Path:
        """Write ``leaderboard.json`` and ``index.html`` from the entries, and return the page's path."""
        if not self.entry_files():
            raise UserError(f"{self.path} has no entries; add one with `segrobust leaderboard add RUN_DIR`")
        with self._held():
            table, page = self.table(), self.path / "index.html"
            check_schema("leaderboard", table, self.path / "leaderboard.json")
            write_table(self.path / "leaderboard.json", table)
            replace_file(page, render(table).encode())
        return page

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        with clear_io_errors(f"create {self.path}", "choose a --board that can be written"):
            (self.path / "entries").mkdir(parents=True, exist_ok=True)
        with only_process(self.path / "entries" / ".lock"):
            yield
