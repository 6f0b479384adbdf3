"""The page shows what the greedy search found beside the per-image readings."""

from dataclasses import replace

from segrobust.analysis.summary import summarise
from segrobust.report import build_report
from segrobust.runs.folder import RunFolder


def test_all_readings_of_the_worst_miou_are_shown(make_run):
    folder = RunFolder(make_run(attacks=("SEA",), radii=(4 / 255,)))
    rows = folder.rows()
    attacked = [row for row in rows if row.condition.name == "SEA"]
    other = replace(attacked[0].condition, candidate="rare")
    # more pixels right, but none of the second class
    rare = {"tp": [930, 0], "fp": [50, 80], "fn": [80, 50]}
    common = {"tp": [900, 20], "fp": [30, 110], "fn": [110, 30]}
    rows = [row for row in rows if row.condition.name != "SEA"]
    rows += [replace(row, counts=row.counts | common) for row in attacked]
    rows += [replace(row, condition=other, counts=row.counts | rare) for row in attacked]
    records = summarise(rows, 3, samples=50)
    folder.write_json("summary.json", records)
    page = build_report([folder.path]).read_text()
    (sea,) = (record for record in records if record["name"] == "SEA")
    assert sea["mIoU_gap"] > 1
    assert "by the greedy search" in page
    for name in ("mIoU_greedy", "mIoU_per_image", "mIoU"):
        assert f"{sea[name]:.2f}" in page


def test_without_another_reading_there_is_no_such_table(make_run):
    assert "by the greedy search" not in build_report([make_run()]).read_text()
