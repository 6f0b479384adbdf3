"""Universal perturbations and patches on the page and on the terminal, and nothing of them where there are none."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from segrobust.core.rows import Condition
from segrobust.report import build_report
from segrobust.report.lines import ring_table
from segrobust.report.table import print_table
from tests.report.conftest import extended, row
from tests.report.test_corruption import words

NOISE = Condition("universal", "noise", "Linf", 8 / 255, control=True)
PERTURBATION = Condition("universal", "perturbation", "Linf", 8 / 255, fields={"steps": 50})
PATCH = Condition("universal", "patch", fields={"rings": [8, 16]})
RIGHTS = {NOISE: 850, PERTURBATION: 200, PATCH: 600}


@pytest.fixture
def folder(make_run):
    made = []
    for one, right in RIGHTS.items():
        more = {"regions": [[10, 100], [60, 100], [90, 100]]} if one == PATCH else {}
        made += [row(image, one, right, **more) for image in range(4)]
    return extended(make_run(), made)


def test_the_page_has_clean_noise_perturbation_and_patch(folder):
    text = words(build_report([folder]).read_text())
    records = {r["name"]: r for r in json.loads((folder / "summary.json").read_text())}
    clean = records["clean"]
    assert f"clean {clean['mIoU']:.2f}" in text[text.index("Universal perturbations") :]
    titles = ("noise (Linf) 8/255", "perturbation (Linf) 8/255", "patch")
    for title in titles:
        one = records[title.split()[0]]
        low, high = one["ci"]["mIoU"]
        line = f"{title} {one['mIoU']:.2f} {low:.1f}\N{EN DASH}{high:.1f} {one['mIoU'] - clean['mIoU']:+.2f} "
        assert line + f"{one['aAcc']:.2f}" in text
    assert "\N{LESS-THAN OR EQUAL TO} 8 px \N{LESS-THAN OR EQUAL TO} 16 px beyond patch 10.00 60.00 90.00" in text


def test_they_are_no_attacks(folder, make_run):
    """No curve, no column of their radius, no worst case; the settings tell what was done."""
    text, plain = (words(build_report([one]).read_text()) for one in (folder, make_run("plain")))
    start = plain.rindex("Every attack at every radius, Linf")  # the first is in the table of contents
    assert plain[start : plain.index("Readings of mIoU", start)] in text
    assert "Universal perturbations" not in plain
    assert "perturbation (Linf) steps=50, eps=8/255" in text and "rings=[8, 16]" in text


def test_the_terminal_has_them(folder):
    console = Console(file=io.StringIO(), width=110)
    records = json.loads((folder / "summary.json").read_text())
    print_table({"run": records}, console)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    (clean,), (one,) = ([r for r in records if r["name"] == name] for name in ("clean", "perturbation"))
    more = [f"{one[name] - clean[name]:+.2f}" for name in ("aAcc", "mIoU")]
    scores = [f"{one['aAcc']:.2f}", "/", f"{one['mIoU']:.2f}", more[0], "/", more[1]]
    assert ["perturbation", "(Linf)", "8/255", *scores] in lines
    assert ["patch", "10.00", "60.00", "90.00"] in lines
    plain = Console(file=io.StringIO(), width=110)
    print_table({"run": [r for r in records if r["study"] != "universal"]}, plain)
    assert "universal" not in plain.file.getvalue() and "patch" not in plain.file.getvalue()


def test_patches_with_other_rings_share_a_table():
    def patch(name, *rings):
        regions = [{"within": within, "right": right, "pixels": 1} for within, right in rings]
        return {"name": name, "norm": None, "eps": None, "regions": regions}

    titles, rows = ring_table([patch("a", (8, 1.0), (None, 3.0)), patch("b", (4, 5.0), (8, None))])
    assert titles == ["\N{LESS-THAN OR EQUAL TO} 4 px", "\N{LESS-THAN OR EQUAL TO} 8 px", "beyond"]
    assert rows == [("a", [None, 1.0, 3.0]), ("b", [5.0, None, None])]
    assert ring_table([{"name": "perturbation"}]) == ([], [])
