"""Published results beside ours as Markdown: what agrees, what does not, what is not compared, and why."""

from __future__ import annotations

import dataclasses

from segrobust.analysis.golden import AGREES, HIGHER, NO_COUNTERPART, NOT_COMPARABLE, Comparison
from segrobust.analysis.golden_file import GoldenCell
from segrobust.report.golden_table import golden_lines

CELL = GoldenCell(
    where=("f.json", "t", "net", "PGD10", "mIoU"), source="A paper, table 1", tag="tex", data="VOC 2012", split="val",
    images=1449, protocol=None, nearest=("p",), protocol_published="tiles", needs="tiles",
    attack="CEPGD:published(steps=10)", backwards=10, norm="Linf", eps_published="0.03 = 8/255", eps=(0.03, 8 / 255),
    reads="mIoU", value=28.46, sided="one", tolerance=3.0, why="so", status="not reproduced",
)  # fmt: skip
LOWER_ONE = Comparison(cell=CELL, verdict="below as expected", ours=20.0, difference=-8.46, allowed=3.0)


def test_a_line_has_theirs_ours_and_the_verdict():
    two = dataclasses.replace(CELL, sided="two", protocol="p", eps=(0.03,), eps_published="4/255", needs="",
                              where=("f.json", "t", "net", "SEA 4/255", "aAcc"))  # fmt: skip
    higher = Comparison(cell=two, verdict=HIGHER, ours=31.0, difference=2.54, allowed=1.2, reason="untold")
    lines = golden_lines([LOWER_ONE, higher])
    assert lines[0] == "## Beside published results"
    assert lines[2] == "2 published numbers compared: 1 below as expected, 1 higher than published."
    assert lines[4:8] == [
        "| model | attack | metric | published | ours | difference | allowed | verdict | source |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| net | PGD10, 0.03 = 8/255 | mIoU | at most 28.46 | 20.00 | -8.46 | 3.00 | below as expected "
        "(theirs in tiles, ours in one crop) | A paper, table 1 [tex] |",
        "| net | SEA 4/255 | aAcc | 28.46 | 31.00 | +2.54 | 1.20 | **higher than published** (untold) | "
        "A paper, table 1 [tex] |",
    ]
    assert "reproduced none" in lines[9]


def test_contradictions_name_the_other_numbers():
    other = dataclasses.replace(CELL, value=22.94, source="Another", tag="pdf")
    lines = golden_lines([dataclasses.replace(LOWER_ONE, contradicted_by=(other,))])
    assert "Publications contradict each other:" in lines
    assert lines[-1] == "- net, PGD10, 0.03 = 8/255, mIoU: 28.46 (A paper, table 1 [tex]), but 22.94 (Another [pdf])"
    assert "Publications contradict each other:" not in golden_lines([LOWER_ONE])


def test_what_is_not_compared_is_counted_by_its_reason():
    none = Comparison(cell=CELL, verdict=NO_COUNTERPART, reason="x was not run")
    other = Comparison(cell=CELL, verdict=NOT_COMPARABLE, reason="other protocol")
    lines = golden_lines([none, none, other])
    assert lines[2] == "0 published numbers compared."
    assert lines[3:] == [
        "", "Not comparable (1):", "", "- net: other protocol (1)",
        "", "Published, without a counterpart here (2):", "", "- net: x was not run (2)",
    ]  # fmt: skip
    assert golden_lines([]) == []


def test_a_name_cannot_end_a_cell_or_a_line():
    cell = dataclasses.replace(CELL, where=("f.json", "t", "a|b\n<script>", "c", "mIoU"))
    line = golden_lines([Comparison(cell=cell, verdict=AGREES, ours=1.0, difference=0.0, allowed=1.0)])[6]
    assert line.startswith("| a\\|b &lt;script> | c, 0.03 = 8/255 |")
