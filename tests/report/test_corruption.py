"""Corruptions on the page and on the terminal, and nothing of them where there are none."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from segrobust.core.rows import Condition
from segrobust.report import build_report
from segrobust.report.table import print_table
from tests.report.conftest import extended, row
from tests.report.test_report import HOSTILE, Page

# right pixels of the first class, by type and severity; 900 to 870 of them are right in the clean images
MEASURED = {("fog", 1): 700, ("fog", 3): 400, ("snow", 1): 800, ("snow", 3): 100}


def corrupted(folder, name=str):
    made = []
    for (kind, severity), right in MEASURED.items():
        one = Condition("corruption", name(kind), severity=severity, fields={"type": kind, "seed": 7})
        made += [row(image, one, right) for image in range(4)]
    return extended(folder, made)


def words(page):
    return " ".join(" ".join(Page(page).text).split())


@pytest.fixture
def records(make_run):
    folder = corrupted(make_run())
    return folder, json.loads((folder / "summary.json").read_text())


def test_means_and_types_are_on_the_page(records):
    folder, records = records
    text = words(build_report([folder]).read_text())
    by_name = {(r["name"], r["severity"]): r for r in records if r["study"] == "corruption"}
    assert "Common corruptions" in text
    clean, fog = records[0], by_name["fog", 3]
    assert clean["aAcc"] == pytest.approx(100 * (885 + 500) / 1510, abs=1e-3)
    for name in ("mIoU", "aAcc"):
        assert f"{fog[name]:.2f} -{clean[name] - fog[name]:.2f}" in text
    for severity, title in ((1, "severity 1"), (3, "severity 3"), (None, "all severities")):
        mean = by_name["mean", severity]
        lost = [
            f"{mean[n]:.2f} -{clean[n] - mean[n]:.2f} {100 - 100 * mean[n] / clean[n]:.2f}" for n in ("mIoU", "aAcc")
        ]
        assert f"{title} 2 {lost[0]} {lost[1]}" in text
    assert "fog seed=7, severity=1 3" in text and "snow seed=7, severity=1 3" in text  # among the settings


def test_corruptions_stay_out_of_what_attacks_have(make_run):
    before = words(build_report([make_run("before")]).read_text())
    after = words(build_report([corrupted(make_run("after"))]).read_text())
    for section in ("Every attack at every radius, Linf", "IoU per class, clean and in the worst case"):
        start = before.rindex(section)  # the first is in the table of contents
        end = start + 300
        assert before[start:end] in after
    assert "Common corruptions" not in before and "mean over types" not in before


def test_the_terminal_has_a_line_per_severity(records):
    _, records = records
    console = Console(file=io.StringIO(), width=110)
    print_table({"run": records}, console)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    mean = next(r for r in records if (r["name"], r["severity"]) == ("mean", 3))
    lost = mean["degradation"]
    wanted = ["severity", "3", "2", f"{mean['aAcc']:.2f}", "/", f"{mean['mIoU']:.2f}"]
    wanted += [f"-{lost['points']['aAcc']:.2f}", "/", f"-{lost['points']['mIoU']:.2f}"]
    assert [*wanted, f"{lost['relative']['aAcc']:.2f}", "/", f"{lost['relative']['mIoU']:.2f}"] in lines
    assert [line[:2] for line in lines if "severit" in "".join(line[:2])] == [
        ["severity", "1"], ["severity", "3"], ["all", "severities"],
    ]  # fmt: skip
    assert not [line for line in lines if "fog" in line]
    plain = Console(file=io.StringIO(), width=110)
    print_table({"run": [r for r in records if r["study"] != "corruption"]}, plain)
    assert "corruption" not in plain.file.getvalue()


def test_hostile_names_of_corruptions_stay_words(make_run):
    calm = Page(build_report([corrupted(make_run("a"))]).read_text())
    page = Page(build_report([corrupted(make_run("b"), lambda kind: HOSTILE + kind)]).read_text())
    assert page.tags == calm.tags and "".join(page.text).count("<script>alert(1)</script>") > 4
