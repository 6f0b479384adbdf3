"""Two runs over the same images, beside each other: what the report says of their difference, and when it says none."""

from __future__ import annotations

import html
import json
import re

import pytest

from segrobust.analysis.statistics import paired_difference
from segrobust.report import build_report
from segrobust.report.pairs import paired_runs
from segrobust.report.runs import load_runs
from segrobust.runs.folder import RunFolder


def test_clean_and_worst_case_of_every_pair(make_run):
    folders = [make_run("standard"), make_run("robust"), make_run("mine", radii=(4 / 255, 8 / 255))]
    pairs = paired_runs(load_runs(folders))
    assert [(pair.first, pair.second) for pair in pairs] == [
        ("standard", "robust"),
        ("standard", "mine"),
        ("robust", "mine"),
    ]
    at = [[(one.norm, one.eps) for one in pair.conditions] for pair in pairs]
    both, common = ([(None, None), *(("Linf", eps) for eps in radii)] for radii in ((1 / 255, 4 / 255), (4 / 255,)))
    assert at == [both, common, common]
    assert all(
        one.scores["aAcc"] == [0, 0, 0] for pair in pairs for one in pair.conditions[:1]
    )  # alike on clean images
    weak, strong = (folder_rows(folder) for folder in folders[:2])
    for condition in pairs[0].conditions[1:]:
        # TsallisPGD is the strongest of the made-up attacks at every radius, and a larger radius stronger
        chosen = [
            [r for r in rows if (r["attack"], r["eps"]) == ("TsallisPGD", condition.eps)] for rows in (weak, strong)
        ]
        expected = paired_difference(*chosen, 3)
        for name, values in condition.scores.items():
            assert values == pytest.approx(expected[name], abs=1e-4) and values[1] > 0


def folder_rows(folder):
    return RunFolder(folder).rows()


def test_the_page_shows_the_numbers_and_embeds_them(make_run):
    folders = [make_run("standard"), make_run("robust")]
    (pair,) = paired_runs(load_runs(folders))
    page = build_report(folders).read_text()
    text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", page)))
    assert "Paired differences" in text and "robust \N{MINUS SIGN} standard" in text
    for one in pair.conditions:
        for middle, low, high in one.scores.values():
            assert f"{middle:+.2f} {low:+.1f} to {high:+.1f}" in text
    (embedded,) = re.findall(r"<pre>(.*?)</pre>", page, flags=re.S)
    first, second = json.loads(html.unescape(embedded))
    assert "paired" not in first
    assert [one["minus"] for one in second["paired"]] == ["standard"]
    assert second["paired"][0]["conditions"][2]["scores"]["mIoU"] == pair.conditions[2].scores["mIoU"]
    assert "Paired differences" not in build_report(folders[:1]).read_text()


def other_data(folder):
    change(folder / "run.json", lambda run: run["identity"].update(dataset_fingerprint="other"))


def other_images(folder):
    file = folder / "rows/rank-0.jsonl"
    file.write_text(file.read_text().replace("x.png", "y.png"))


def other_labels(folder):
    file = folder / "rows/rank-0.jsonl"
    file.write_text(file.read_text().replace("[10,", "[11,").replace(", 10]", ", 12]").replace(",10]", ",12]"))


def no_rows(folder):
    (folder / "rows/rank-0.jsonl").unlink()


def more_classes(folder):
    change(folder / "summary.json", lambda records: [record["iou"].append(None) for record in records])


def change(path, by):
    content = json.loads(path.read_text())
    by(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (other_data, "other data"),
        (other_images, "4 and 4 images that are not the same ones"),
        (other_labels, "the same images with other labels"),
        (no_rows, "no rows in the folder of robust"),
        (more_classes, "another number of classes"),
    ],
)
def test_runs_that_cannot_be_paired_are_said_not_to_be(make_run, damage, reason):
    folders = [make_run(name, dataset_fingerprint="same") for name in ("standard", "robust")]
    assert paired_runs(load_runs(folders))[0].reason == ""
    damage(folders[1])
    (pair,) = paired_runs(load_runs(folders))
    assert pair.reason == reason and pair.conditions == ()
    text = " ".join(re.sub(r"<[^>]*>", "", build_report(folders).read_text()).split())
    assert f"robust and standard are not paired: {reason}." in text
