"""Published results: copied as the papers print them, and compared with ours under plain rules."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import pytest

from segrobust.analysis.golden import (
    AGREES,
    BELOW,
    HIGHER,
    LOWER,
    NO_COUNTERPART,
    NOT_COMPARABLE,
    as_measured,
    compare,
    read_golden,
)
from segrobust.analysis.golden_file import read_cells
from segrobust.core.errors import UserError
from segrobust.core.rows import Condition

FOLDER = Path(__file__).resolve().parents[2] / "configs/benchmarks/golden"
GOLDEN = read_golden(FOLDER / "all.json")
PT, PV, DV = "pirat-upernet-convnext-t-voc", "pirat-segmenter-vit-s-ade20k", "ddcat-pspnet50-voc-ddcat"
LITERALS = [  # typed from the papers' tables: file, table, model, column, values in the order of the metrics
    ("sea.json", f"table-1-{PT}", PT, "clean", 92.7, 75.9),
    ("sea.json", f"table-1-{PT}", PT, "SEA 4/255", 88.6, 64.9),
    ("sea.json", f"table-1-{PT}", PT, "SEA 8/255", 71.7, 34.6),
    ("sea.json", f"table-1-{PT}", PT, "SEA 12/255", 28.1, 5.5),
    ("sea.json", f"table-1-{PT}", PT, "JS 12/255", 38.6, 15.1),
    ("sea.json", f"table-1-{PT}", PT, "MCE-Bal 4/255", 90.4, 67.4),
    ("sea.json", f"table-1-baselines-{PT}", PT, "SegPGD, 300 steps, 8/255", 74.2, 41.4),
    ("sea.json", f"table-1-{PV}", PV, "MCE 12/255", 10.5, 2.2),
    ("sea.json", "tables-2-3-ade20k", PV, "SEA 8/255", 33.3, 5.3),
    ("sea.json", "table-6-pirat-pspnet50-voc", "pirat-pspnet50-voc", "SEA 12/255", 12.9, 1.4),
    ("sea.json", "table-6-pirat-upernet-convnext-s-ade20k", "pirat-upernet-convnext-s-ade20k", "MCE 4/255", 58.6, 20.4),
    ("sea.json", "tables-2-3-voc", "sea-upernet-convnext-t-voc-at5-300", "SEA 8/255", 71.5, 35.1),
    ("sea.json", f"table-1-{DV}", DV, "SEA 2/255", 0.2, 0.1),
    ("sea.json", "readme-1-voc", PT, "SEA v1 8/255", 37.0),
    ("cospgd.json", "table-7", PT, "CosPGD softmax, 300 steps, 8/255", 39.52, 72.81),
    ("cospgd.json", "table-7", PT, "SegPGD, 10 steps, 16/255", 11.37, 45.04),
    ("cospgd.json", "ddcat", DV, "CosPGD @10", 23.04),
    ("segpgd.json", "table-1-pspnet50", DV, "PGD100", 10.51),
    ("segpgd.json", "table-1-deeplabv3-50", "segpgd-deeplabv3-50-voc-segpgd7-at", "PGD20", 26.68),
    ("segpgd.json", "table-2-pspnet50", "segpgd-pspnet50-cityscapes-standard", "PGD10", 0.96),
    ("segpgd.json", "supplement-segpgd100-voc", "segpgd-pspnet50-voc-segpgd7-at", "SegPGD100", 17.03),
    ("ddcat.json", "voc-pspnet50", DV, "BIM-2", 75.6),
    ("ddcat.json", "cityscapes-deeplabv3-50", "ddcat-deeplabv3-50-cityscapes-sat", "CW", 48.4),
    ("rppgd.json", "voc-pspnet50", "rppgd-pspnet50-voc-rp-pgd7-at", "PGD100", 23.14),
    ("rppgd.json", "cityscapes-pspnet50", "ddcat-pspnet50-cityscapes-ddcat", "CW", 34.59),
    ("eroseg.json", "cityscapes-pspnet50", "eroseg-pspnet50-cityscapes-eroseg7-at", "PGD20", 21.39),
    ("eroseg.json", "voc-deeplabv3-50", "eroseg-deeplabv3-50-voc-cospgd3-at", "PGD10", 32.92),
    ("semsegbench.json", "linf", "segformer_mit-b4_8xb2-160k_ade20k-512x512", "SegPGD 4/255", 6.78),
    ("dla.json", "cityscapes", "dla-segformer-cityscapes", "DLA, 200 queries", 17.78),
    ("openmmlab.json", "voc-2012", "deeplabv3plus_r101-d8_4xb4-40k_voc12aug-512x512", "clean", 78.62),
    ("openmmlab.json", "cityscapes", "segformer_mit-b3_8xb1-160k_cityscapes-1024x1024", "clean", 81.94),
]


@pytest.mark.parametrize("literal", LITERALS, ids=lambda one: " ".join(one[2:4]))
def test_numbers_are_those_of_the_papers(literal):
    where, values = literal[:4], list(literal[4:])
    assert [cell.value for cell in GOLDEN.cells if cell.where[:4] == where] == values


def test_there_is_every_number_and_none_is_said_to_be_reproduced():
    counts = {
        name: sum(cell.where[0] == name for cell in GOLDEN.cells) for name in sorted({c.where[0] for c in GOLDEN.cells})
    }
    assert counts == {
        "cospgd.json": 152, "ddcat.json": 108, "dla.json": 84, "eroseg.json": 104, "openmmlab.json": 39,
        "rppgd.json": 121, "sea.json": 465, "segpgd.json": 234, "semsegbench.json": 62,
    }  # fmt: skip
    assert {cell.status for cell in GOLDEN.cells} == {"not reproduced"}
    assert len({cell.where for cell in GOLDEN.cells}) == len(GOLDEN.cells)
    assert all(0 <= cell.value <= 100 for cell in GOLDEN.cells)


def test_seas_rows_are_two_sided_and_the_others_one_sided():
    attacked = [cell for cell in GOLDEN.cells if cell.attack not in (None, "clean")]
    losses = ("SEA", "SEA(losses=v1)", "JSPGD", "MaskedPGD", "BalancedPGD")
    for cell in attacked:
        two = cell.where[0] == "sea.json" and cell.attack in losses and cell.protocol and cell.table != "appendix-c3"
        assert cell.sided == ("two" if two else "one"), cell.where
    assert {cell.sided for cell in GOLDEN.cells if cell.attack == "clean"} == {"two"}


def test_the_tolerance_of_two_runs_is_that_of_the_seed_table():
    """Two runs of the largest standard deviation there differ by less in 95 of 100 cases; and rounding to 0.1."""
    losses = json.loads((FOLDER / "sea.json").read_text())["seeds"]["losses"]
    assert losses["SEA"]["8/255"] == [[71.7, 0.3], [34.6, 0.1]] and losses["MCE"]["8/255"] == [[73.8, 0.4], [40.8, 0.4]]
    largest = max(std for at in losses.values() for pairs in at.values() for _, std in pairs)
    tolerance = round(1.96 * math.sqrt(2) * largest + 0.05, 1)
    of_seas = {cell.tolerance for cell in GOLDEN.cells if cell.where[0] == "sea.json" and cell.attack == "SEA"}
    assert tolerance == 1.2 and of_seas == {tolerance}


def test_whatever_papers_contradict_each_other_in_is_listed():
    same = defaultdict(list)
    for cell in GOLDEN.cells:
        key = (cell.model, cell.attack or cell.column, cell.norm, cell.eps[:1], cell.protocol, cell.metric)
        same[key].append(cell)
    for cells in same.values():
        values = [cell.value for cell in cells]
        if max(values) - min(values) > 0.2:
            wanted = {cell.where for cell in cells}
            assert any(wanted <= set(one.cells) for one in GOLDEN.contradictions), wanted


def test_what_papers_say_of_ddcat_under_pgd100_contradicts_itself():
    (cell,) = [one for one in GOLDEN.cells if one.where[:4] == ("segpgd.json", "table-1-pspnet50", DV, "PGD100")]
    assert sorted(one.value for one in GOLDEN.others(cell)) == [0, 10.84, 13.62]
    (group,) = [one for one in GOLDEN.contradictions if cell.where in one.cells]
    assert "SEA" in group.note


def test_003_is_read_in_both_ways_where_a_paper_says_it_is_8_255():
    eps = {cell.eps for cell in GOLDEN.cells if cell.eps_published == "0.03 = 8/255"}
    assert eps == {(0.03, 8 / 255)}
    assert {cell.eps for cell in GOLDEN.cells if cell.where[0] in ("rppgd.json", "eroseg.json")} == {(0.03,), ()}


COLUMN = {
    "name": "A 4/255",
    "attack": "JSPGD",
    "backwards": 300,
    "norm": "Linf",
    "eps_published": "4/255",
    "eps": ["4/255"],
}
TABLE = {
    "name": "t", "source": "someone", "tag": "tex", "data": "VOC 2012", "split": "val", "images": 100,
    "protocol": "p", "protocol_published": "p", "metrics": ["aAcc", "mIoU"], "sided": "two", "tolerance": 1.0,
    "why": "so", "status": "not reproduced", "columns": [COLUMN], "rows": {"net": [[60.0, 40.0]]},
}  # fmt: skip


def golden_of(tmp_path, **changes):
    column = {name: value for name, value in changes.items() if name in COLUMN}
    table = TABLE | {name: value for name, value in changes.items() if name not in COLUMN}
    content = {"format": 1, "models": {"net": "a net"}, "tables": [table | {"columns": [COLUMN | column]}]}
    (tmp_path / "g.json").write_text(json.dumps(content))
    return read_golden(tmp_path / "g.json")


def record(**changes):
    base = {"study": "attack", "name": "JSPGD", "norm": "Linf", "eps": 4 / 255, "surrogate": None, "images": 100,
            "aAcc": 60.4, "mIoU": 40.0, "backwards": 300.0, "ci": {"aAcc": [58.0, 64.0], "mIoU": [39.0, 41.0]},
            "iou": [50.0, 30.0], "protocol": "p", "metric_size": "input"}  # fmt: skip
    return base | changes


def verdicts(golden, *records):
    return [one.verdict for one in compare(golden, {"net": records})]


@pytest.mark.parametrize(
    ("ours", "sided", "verdict"),
    [(61.0, "two", AGREES), (61.1, "two", HIGHER), (59.0, "two", AGREES), (58.9, "two", LOWER),
     (61.0, "one", AGREES), (61.1, "one", HIGHER), (10.0, "one", BELOW)],
)  # fmt: skip
def test_of_a_whole_split_the_tolerance_alone_is_allowed(ours, sided, verdict, tmp_path):
    golden = golden_of(tmp_path, sided=sided)
    first, second = compare(golden, {"net": [record(aAcc=ours)], "else": []})
    assert first.verdict == verdict and second.verdict == AGREES
    assert (first.ours, first.allowed, first.reason) == (ours, 1.0, "")
    assert first.difference == pytest.approx(ours - 60)


def test_a_sample_may_be_off_by_half_of_its_interval_more(tmp_path):
    golden = golden_of(tmp_path)
    allowed = [one.allowed for one in compare(golden, {"net": [record(images=50)]})]
    assert allowed == [1.0 + 3.0, 1.0 + 1.0]
    assert verdicts(golden, record(images=50, aAcc=64.0, mIoU=42.1)) == [AGREES, HIGHER]


def test_a_sample_without_all_classes_has_another_mean(tmp_path):
    golden = golden_of(tmp_path)
    assert verdicts(golden, record(images=50, iou=[50.0, None])) == [AGREES, NOT_COMPARABLE]
    assert verdicts(golden, record(iou=[50.0, None])) == [AGREES, AGREES]
    assert verdicts(golden, record(images=1, ci={"aAcc": None, "mIoU": None})) == [NOT_COMPARABLE] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [({"protocol": None}, "protocol of ours: own, of theirs: p"), ({"images": 101}, "101 images"),
     ({"metric_size": "original"}, "original size"), ({"aAcc": None, "mIoU": None}, "ours has no aAcc")],
)  # fmt: skip
def test_other_data_are_not_compared(change, said, tmp_path):
    first, second = compare(golden_of(tmp_path), {"net": [record(**change)]})
    assert first.verdict == second.verdict == NOT_COMPARABLE
    assert said in first.reason and first.ours is None


def test_images_that_are_not_named_are_not_compared(tmp_path):
    assert verdicts(golden_of(tmp_path, sample=20), record()) == [NOT_COMPARABLE] * 2


def test_near_protocols_count_where_there_is_none_of_ours_and_then_one_sided(tmp_path):
    golden = golden_of(tmp_path, protocol=None, nearest=["p", "q"], sided="one")
    assert verdicts(golden, record(protocol="q")) == [AGREES] * 2
    assert verdicts(golden, record(protocol="r")) == [NOT_COMPARABLE] * 2
    assert verdicts(golden_of(tmp_path, protocol="own"), record(protocol=None)) == [AGREES] * 2


def test_a_run_that_does_not_tell_its_protocol_is_taken_at_its_word(tmp_path):
    untold = record()
    del untold["protocol"], untold["metric_size"]
    assert {one.reason for one in compare(golden_of(tmp_path), {"net": [untold]})} == {
        "the protocol of ours is not told"
    }


@pytest.mark.parametrize(
    "change",
    [{"name": "CEPGD"}, {"norm": "L2"}, {"eps": 8 / 255}, {"eps": None}, {"backwards": 100.0}, {"backwards": None},
     {"surrogate": "x"}, {"study": "universal"}],
)  # fmt: skip
def test_another_attack_is_no_counterpart(change, tmp_path):
    first, _ = compare(golden_of(tmp_path), {"net": [record(**change)]})
    assert (first.verdict, first.reason) == (NO_COUNTERPART, "JSPGD was not run")


def test_an_attack_that_is_not_ours_has_no_counterpart(tmp_path):
    first, _ = compare(golden_of(tmp_path, attack=None), {"net": [record()]})
    assert first.verdict == NO_COUNTERPART and "A 4/255 is not part of segrobust" in first.reason


def test_presets_and_second_names_are_told_apart(tmp_path):
    assert verdicts(golden_of(tmp_path), record(name="JSPGD:published")) == [AGREES] * 2
    published = golden_of(tmp_path, attack="CEPGD:published(steps=10, keep=last)", backwards=10)
    ours = record(name="CEPGD:published#2", backwards=10.0)
    assert verdicts(published, ours) == [AGREES] * 2
    assert verdicts(published, ours | {"name": "CEPGD"}) == [NO_COUNTERPART] * 2
    assert verdicts(published, ours | {"fields": {"steps": 10, "keep": "best"}}) == [NO_COUNTERPART] * 2
    assert verdicts(published, ours | {"fields": {"steps": 10, "keep": "last"}}) == [AGREES] * 2


def test_of_several_that_fit_the_lowest_counts(tmp_path):
    golden = golden_of(tmp_path, eps=["0.03", "4/255"], sided="one")
    first, second = compare(
        golden, {"net": [record(mIoU=70.0), record(eps=0.03, aAcc=80.0), record(eps=0.05, aAcc=1.0)]}
    )
    assert (first.ours, second.ours) == (60.4, 40.0)


def test_other_readings(tmp_path):
    golden = golden_of(tmp_path, metrics=["unbroken"], reads=["unbroken"], rows={"net": [77]})
    assert [one.ours for one in compare(golden, {"net": [record(broken=22.5)]})] == [77.5]
    greedy = golden_of(tmp_path, reads=["aAcc", "mIoU_greedy"])
    assert [one.ours for one in compare(greedy, {"net": [record(mIoU=90.0, mIoU_greedy=39.5)]})] == [60.4, 39.5]
    clean = golden_of(tmp_path, attack="clean")
    assert verdicts(clean, record(), record(study="clean", name="clean", aAcc=59.0, mIoU=0.0)) == [AGREES, LOWER]


def test_models_that_were_not_measured_are_left_out(tmp_path):
    assert compare(golden_of(tmp_path), {"another": [record()]}) == []


def test_records_are_told_their_run(tmp_path):
    bare = {key: value for key, value in record().items() if key not in ("protocol", "metric_size")}
    condition = Condition("attack", "JSPGD", "Linf", 4 / 255, fields={"steps": 300})
    candidate = Condition("attack", "JSPGD", "Linf", 4 / 255, candidate="x", fields={"steps": 1})
    (told,) = as_measured([bare], {"protocol": "p"}, [condition, candidate])
    assert told == bare | {"protocol": "p", "metric_size": "input", "fields": {"steps": 300}}
    (told,) = as_measured([bare], {"metric_size": "original"})
    assert told == bare | {"protocol": None, "metric_size": "original"}


@pytest.mark.parametrize(
    ("change", "said"),
    [({"tolerance": 0}, "tolerance > 0"), ({"sided": "three"}, "unknown sided 'three'"), ({"status": "x"}, "status"),
     ({"metric_size": "x"}, "metric_size"), ({"colour": 1}, "unknown entry 'colour'"),
     ({"eps": []}, "expected norm, eps"),
     ({"eps": ["1/255", "2/255"]}, "one-sided"), ({"protocol": None}, "one-sided"), ({"eps": ["4"]}, "did you mean"),
     ({"backwards": None}, "backwards of JSPGD"), ({"rows": {"net": [["a", 1]]}}, "expected a number"),
     ({"rows": {"net": [[1]]}}, "not a table"), ({"rows": {"net": []}}, "not a table"), ({"rows": 3}, "not a table")],
)  # fmt: skip
def test_a_slip_in_a_file_is_told_with_its_place(change, said, tmp_path):
    with pytest.raises(UserError) as error:
        golden_of(tmp_path, **change)
    assert said in str(error.value) and "g.json" in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_none_are_refused(tmp_path):
    for content in ([], {"format": 2}, {"format": 1}, {"format": 1, "files": ["../x.json"]}, {"format": 1, "files": 3}):
        (tmp_path / "g.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="expected"):
            read_golden(tmp_path / "g.json")
    with pytest.raises(UserError, match="no such file"):
        read_golden(tmp_path / "nowhere.json")
    golden_of(tmp_path)
    for group in ({"about": "x", "cells": [["g.json", "t", "net", "A", "x"]]}, {"about": "x"}, 3):
        (tmp_path / "all.json").write_text(json.dumps({"format": 1, "files": ["g.json"], "contradictions": [group]}))
        with pytest.raises(UserError, match=r"there is no g\.json, t, net, A, x|expected an about and cells"):
            read_golden(tmp_path / "all.json")
    assert len(read_cells(tmp_path / "g.json")) == 2
