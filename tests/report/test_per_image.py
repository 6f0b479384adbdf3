"""The table of every image: scores, the attack that won, distances; its size with many images."""

import json
import re
from collections import Counter

import pytest

from segrobust.core.rows import Condition, Row
from segrobust.report import build_report
from segrobust.report.per_image import image_table
from segrobust.report.runs import load_runs
from segrobust.runs.folder import RunFolder
from tests.report.conftest import extended, row, rows, summarised


def table(folder):
    (run,) = load_runs([folder])
    return run, image_table(run)


def test_scores_of_each_image_alone_and_the_attack_that_won(make_run):
    """Of image 2 of 1510 pixels 880 of road and 500 of car are right; at 4/255 TsallisPGD harms twice as CEPGD does."""
    run, found = table(make_run())
    assert found.titles == [
        "image", "clean aAcc", "clean mIoU",
        "aAcc at Linf 1/255", "attack at Linf 1/255", "aAcc at Linf 4/255", "attack at Linf 4/255",
    ]  # fmt: skip
    line = found.lines[1]
    right, left = 880, round(880 / (1 + 100 * 4 / 255 * 2))
    road, car = right / (1000 + 10), 500 / (500 + 1000 - right + 10)
    assert line[1:3] == [f"{100 * (right + 500) / 1510:.2f}", f"{50 * (road + car):.2f}"]
    assert line[5:] == [f"{100 * (left + 500) / 1510:.2f}", "TsallisPGD"]
    for place, record in zip((4, 6), run.at_radius("Linf", "worst_case"), strict=True):
        wins = Counter(line[place] for line in found.lines)
        summary = json.loads((run.path / "summary.json").read_text())
        (chosen,) = [r["chosen"] for r in summary if r["study"] == "worst_case" and r["eps"] == record["eps"]]
        assert wins == chosen


def test_the_hardest_image_comes_first(make_run):
    _, found = table(make_run())
    scores = [float(line[5]) for line in found.lines]
    assert scores == sorted(scores) and len(set(scores)) == 4


def test_an_image_that_no_attack_made_worse_has_no_winner(make_run):
    folder = make_run()
    sea = Condition("attack", "SEA", "L2", 0.5, fields={"type": "SEA"})
    extended(folder, [row(image, sea, 999) for image in range(4)])
    _, found = table(folder)
    assert found.titles[-1] == "attack at L2 0.5" and {line[-1] for line in found.lines} == {"none"}


def test_distances_of_a_minimum_norm_attack(make_run):
    folder = make_run()
    alma = Condition("attack", "ALMAProx", "Linf", fields={"type": "ALMAProx"})
    extended(folder, [row(n, alma, 0, distance=(n + 1) / 255, found=n < 3) for n in range(4)])
    _, found = table(folder)
    assert found.titles[-1] == "distance, ALMAProx (Linf)"
    assert sorted(line[-1] for line in found.lines) == ["1/255", "2/255", "3/255", "\N{INFINITY}"]


def test_an_image_without_a_label_has_dashes(make_run):
    folder = make_run()
    path = folder / "rows/rank-0.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for one in lines:
        if one["image"] == 2:
            one["counts"] = {"classes": [], "tp": [], "fp": [], "fn": []}
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    _, found = table(summarised(RunFolder(folder)))
    assert found.lines[-1][1:4] == ["\N{EN DASH}"] * 3


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "There is no table: no rows in the run folder."),
        (lambda path: path.write_text(path.read_text().replace('"image"', '"imago"')), "a row without image"),
    ],
)
def test_a_page_is_written_without_rows_too(make_run, damage, said):
    folder = make_run()
    damage(folder / "rows/rank-0.jsonl")
    page = " ".join(build_report([folder]).read_text().split())
    assert said in page and str(folder) not in page and '<table class="sortable">' not in page


def test_the_page_shows_every_cell(make_run):
    folder = make_run()
    _, found = table(folder)
    (body,) = re.findall('<table class="sortable">.*?<tbody>(.*?)</tbody>', build_report([folder]).read_text(), re.S)
    shown = [re.findall("<t[hd]>([^<]*)", line) for line in body.split("<tr>")[1:]]
    assert [[cell.strip() for cell in line] for line in shown] == found.lines


def test_all_of_pascal_voc_stays_small(make_run, tmp_path):
    """1449 images under two attacks at four radii: the table is less than 250 kB of the page."""
    radii = [n / 255 for n in (1, 2, 4, 8)]
    folder = RunFolder(make_run("small", radii=radii))
    conditions = folder.conditions()
    large = RunFolder(tmp_path / "large")
    entries = [{"name": f"2007_{n:06}", "sha256": f"{n:064x}"} for n in range(1449)]
    large.open(folder.identity(), conditions, entries)
    made = rows(conditions, ["CEPGD", "TsallisPGD"], images=1449)
    with large.writer() as writer:
        writer.append([Row(one.image, one.condition, _capped(one.counts), one.extra) for one in made])
    (large.path / "summary.json").write_text((folder.path / "summary.json").read_text())
    page = build_report([large.path]).read_text()
    (body,) = re.findall('<table class="sortable">.*?<tbody>(.*?)</tbody>', page, re.S)
    assert body.count("<tr>") == 1449 and len(body) < 250_000


def _capped(counts):
    return {name: [max(0, n) for n in values] for name, values in counts.items()}
