"""Means over corruptions and what they cost of the clean score, against numbers computed by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from segrobust.analysis.summary import summarise
from segrobust.core.rows import Condition
from tests.analysis.test_summary import PASSES, accuracies, row

# percent of the pixels right, and so aAcc, by type and severity
MEASURED = {("fog", 1): 60, ("fog", 3): 40, ("snow", 1): 50, ("snow", 3): 10, ("jpeg", 3): 70}


def corrupted(name, severity, values):
    one = Condition("corruption", name, severity=severity, fields={"type": name})
    return [replace(each, condition=one, extra=PASSES) for each in accuracies(values, "clean", None)]


@pytest.fixture
def rows():
    """Two images, of which the first has ten points more."""
    made = accuracies([90, 70], "clean", None) + accuracies([5, 5], "CEPGD", 0.01)
    return made + [each for key, value in MEASURED.items() for each in corrupted(*key, [value + 5, value - 5])]


@pytest.fixture
def records(rows):
    return {(r["study"], r["name"], r["severity"]): r for r in summarise(rows, 2)}


def test_every_type_and_severity_is_a_record_like_any_other(records):
    assert {key[1:] for key in records if key[0] == "corruption" and key[1] != "mean"} == set(MEASURED)
    fog = records["corruption", "fog", 3]
    assert (fog["aAcc"], fog["mIoU"], fog["images"], fog["forwards"]) == (40.0, 40.0, 2, 10.0)
    assert fog["ci"]["aAcc"] == [35.0, 45.0]
    assert "broken" not in fog and "median_distance" not in fog
    assert (fog["norm"], fog["eps"], fog["surrogate"]) == (None, None, None)


def test_means_by_hand(records):
    def mean(severity):
        return [records["corruption", "mean", severity][name] for name in ("aAcc", "mIoU", "types", "images")]

    assert mean(1) == [55.0, 55.0, 2, 2]
    assert mean(3) == [40.0, 40.0, 3, 2]  # jpeg was measured at this severity alone
    assert mean(None) == [46.0, 46.0, 3, 2]


def test_degradation_by_hand(records):
    """Clean aAcc and mIoU are 80."""
    lost = {key[1:]: r["degradation"] for key, r in records.items() if "degradation" in r}
    assert set(lost) == {*MEASURED, ("mean", 1), ("mean", 3), ("mean", None)}
    assert lost["fog", 3] == {"points": {"aAcc": 40.0, "mIoU": 40.0}, "relative": {"aAcc": 50.0, "mIoU": 50.0}}
    assert lost["snow", 3]["points"]["aAcc"] == 70.0 and lost["snow", 3]["relative"]["aAcc"] == 87.5
    assert lost["mean", 1]["points"]["mIoU"] == 25.0 and lost["mean", 1]["relative"]["mIoU"] == 31.25
    assert lost["mean", None] == {"points": {"aAcc": 34.0, "mIoU": 34.0}, "relative": {"aAcc": 42.5, "mIoU": 42.5}}


def test_a_corruption_is_no_worst_case(records):
    assert records["worst_case", "worst_case", None]["aAcc"] == 5.0
    without = summarise(accuracies([90, 70], "clean", None) + corrupted("fog", 5, [0, 0]), 2)
    assert [r["name"] for r in without] == ["clean", "fog", "mean", "mean"]


def test_aacc_and_miou_lose_their_own(rows):
    """One image, classes 0 and 1: clean 90 and 40 of 100 and 50 pixels right, corrupted 50 and 30."""
    clean, fog = ([row(0, tp=tp, fp=fn[::-1], fn=fn)] for tp, fn in (((90, 40), (10, 10)), ((50, 30), (50, 20))))
    fog = [replace(fog[0], condition=Condition("corruption", "fog", severity=2))]
    lost = summarise(clean + fog, 2)[1]["degradation"]
    clean_miou, fog_miou = 100 * (90 / 110 + 40 / 60) / 2, 100 * (50 / 120 + 30 / 100) / 2
    assert lost["points"]["aAcc"] == pytest.approx(100 * (130 - 80) / 150, abs=1e-3)
    assert lost["relative"]["aAcc"] == pytest.approx(100 * (130 - 80) / 130, abs=1e-3)
    assert lost["points"]["mIoU"] == pytest.approx(clean_miou - fog_miou, abs=1e-3)
    assert lost["relative"]["mIoU"] == pytest.approx(100 * (1 - fog_miou / clean_miou), abs=1e-3)


def test_no_number_where_there_is_none(rows):
    nothing = summarise([row(0), *corrupted("fog", 1, [0])], 2)
    assert nothing[1]["degradation"] == {
        "points": {"aAcc": None, "mIoU": None}, "relative": {"aAcc": None, "mIoU": None},
    }  # fmt: skip
    zero = summarise([*accuracies([0], "clean", None), *corrupted("fog", 1, [0])], 2)
    assert zero[2]["degradation"]["points"]["aAcc"] == 0 and zero[2]["degradation"]["relative"]["aAcc"] is None
    assert json.loads(json.dumps(zero, allow_nan=False)) == zero
    assert "degradation" not in summarise(corrupted("fog", 1, [50]), 2)[0]


def test_an_incomplete_severity_is_in_no_mean(rows, caplog):
    kept = [one for one in rows if (one.condition.name, one.condition.severity, one.image) != ("snow", 3, 1)]
    mean = next(r for r in summarise(kept, 2) if (r["name"], r["severity"]) == ("mean", 3))
    assert (mean["aAcc"], mean["types"]) == (55.0, 2)
    assert "snow severity 3 (1 of 2 images)" in caplog.text
