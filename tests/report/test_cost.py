"""What the attacks took, in the table and in the report."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from segrobust.report import build_report
from segrobust.report.lines import CostLine, cost_lines
from segrobust.report.table import print_table
from segrobust.runs.folder import RunFolder


def record(attack, eps, images=8, rate=None, peak=None, norm="Linf", **more):
    cost = {"forwards": 101.0, "backwards": 100.0, "images_per_second": rate, "peak_bytes": peak}
    scores = {"aAcc": 50.0, "mIoU": 25.0, "images": images}
    study = attack if attack in ("clean", "worst_case") else "attack"
    return {
        "study": study,
        "name": attack,
        "norm": norm if attack != "clean" else None,
        "eps": eps,
        **scores,
        **cost,
        **more,
    }


def test_one_line_per_attack_over_all_its_radii():
    found = {"median_distance": 0.01}
    records = [
        record("clean", None, rate=100.0, forwards=1.0, backwards=0.0),
        record("CEPGD", 1 / 255, rate=2.0, peak=3 * 10**9),
        record("CEPGD", 2 / 255, rate=6.0, peak=2 * 10**9, forwards=12345.5),
        record("FMN", None, rate=0.5, **found),
        record("FMN", 1 / 255, rate=0.5),  # from the same search
        record("Old", 1 / 255),
        record("worst_case", 1 / 255, rate=0.1, peak=3 * 10**9),
        *(record(name, None, rate=50.0, norm=None, forwards=1.0, backwards=0.0, study="corruption") for name in "ab"),
    ]
    assert cost_lines(records) == [
        CostLine("clean", "", "1 + 0", "100", "-"),
        CostLine("CEPGD", "Linf", "101 + 100, 12,345.5 + 100", "3", "3,000 MB"),
        CostLine("FMN", "Linf", "101 + 100", "0.5", "-"),
        CostLine("corruption", "", "1 + 0", "50", "-"),
    ]


@pytest.mark.parametrize("peak", [None, 2 * 10**9])
def test_the_table_shows_memory_only_where_it_was_measured(peak):
    records = [record("clean", None), record("CEPGD", 1 / 255, rate=2.5, peak=peak)]
    console = Console(file=io.StringIO(), width=100)
    print_table({"run": [one | {"ci": {}} for one in records]}, console)
    text = console.file.getvalue()
    (line,) = [line.split() for line in text.splitlines() if line.startswith("CEPGD (Linf)")]
    assert line[2:6] == ["101", "+", "100", "2.5"]
    assert ("peak memory" in text, "2,000 MB" in text) == (peak is not None,) * 2


def test_the_report_has_them(make_run):
    folder = RunFolder(make_run())
    records = folder.read_json("summary.json")
    assert records[1]["images_per_second"] == 4.0
    for one in records:
        one["peak_bytes"] = 1_234_000_000
    folder.write_json("summary.json", records)
    page = build_report([folder.path]).read_text()
    assert "<td>101 + 100</td><td>4</td><td>1,234 MB</td>" in page
    for one in records:
        del one["peak_bytes"], one["images_per_second"]  # a run of an earlier version
    folder.write_json("summary.json", records)
    assert "<h2>Cost</h2>" not in build_report([folder.path]).read_text()
