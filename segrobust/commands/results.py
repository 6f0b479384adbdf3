"""What ``evaluate`` returns, and what the command line and Python print at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from segrobust.analysis.summary import Record
from segrobust.analysis.worst_case import WORST_CASE
from segrobust.report.table import print_checks, print_table
from segrobust.report.trust import Trust, load_trust
from segrobust.runs.differences import differences
from segrobust.runs.folder import RunFolder
from segrobust.runs.repeatability import FIELD, REPEATABLE

COLUMNS = ("study", "name", "norm", "eps", "severity", "images", "aAcc", "mAcc", "mIoU", "mIoU_greedy")
DISTANCES = ("median_distance", "found")
TARGETED = ("apsr", "kept", "judged")


class Results(list[Record]):
    """The records of ``summary.json``, in order, and what else a run leaves.

    name: of the model. folder: the run folder, None for a run in memory. trust: what the checks found, None without.
    """

    def __init__(self, records: Sequence[Record], name: str, folder: Path | None, trust: Trust | None) -> None:
        super().__init__(records)
        self.name, self.folder, self.trust = name, folder, trust

    def table(self) -> list[dict[str, Any]]:
        """One flat row per condition with the same columns each, as ``pandas.DataFrame`` takes them; scores in %."""
        more = (*DISTANCES, *(TARGETED if any("judged" in record for record in self) else ()))
        columns = (*COLUMNS, *(name for name in more if any(name in record for record in self)))
        return [{name: record.get(name) for name in columns} for record in self]

    @property
    def worst_case(self) -> list[dict[str, Any]]:
        """The rows of the worst case over all attacks, one per norm and radius."""
        return [row for row in self.table() if row["study"] == WORST_CASE]


def print_results(results: Results, folder: RunFolder, checks: bool) -> None:
    """Tables, checks, sizes and, where the run is kept, where its report is."""
    console, trust, plain = Console(), results.trust, {"soft_wrap": True, "markup": False}
    print_table({results.name: results}, console, {results.name: trust})
    if trust and checks:
        print_checks(trust, console)
    run = folder.read_json("run.json")
    console.print(run["about"].get("sizes", ""), **plain)
    for one in run.get("accepted_different", ()):
        changed = "; ".join(differences(one["stored"], one["now"]))
        text = f"with rows of different {one['what']}, accepted on {one['date']}: {changed}"
        console.print(text, style="yellow", **plain)
    if (seen := run["identity"].get(FIELD, REPEATABLE)) != REPEATABLE:
        console.print(f"repeatable: {seen}: another start of this run gives other numbers", style="yellow", **plain)
    if results.folder:
        console.print(f"report: {results.folder / 'report.html'}", **plain)


def results_of(folder: RunFolder, name: str, kept: bool) -> Results:
    """What lies in the folder of a finished run."""
    return Results(folder.read_json("summary.json"), name, folder.path if kept else None, load_trust(folder.path))
