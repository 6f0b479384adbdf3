"""Accuracy by distance from a patch, pooled by hand."""

from __future__ import annotations

from dataclasses import replace

from segrobust.analysis.summary import pooled_regions, summarise
from segrobust.core.rows import Condition
from tests.analysis.test_summary import PASSES, accuracies

PATCH = Condition("universal", "patch", fields={"rings": [10, 20, None]})
PERTURBATION = Condition("universal", "perturbation", norm="Linf", eps=8 / 255)


def universal(condition, *regions):
    rows = accuracies([40, 20][: len(regions)], "clean", None)
    return [
        replace(one, condition=condition, extra=PASSES | ({"regions": region} if region else {}))
        for one, region in zip(rows, regions, strict=True)
    ]


def test_rings_are_pooled_over_images():
    rows = universal(PATCH, [[10, 40], [30, 60], [5, 10]], [[0, 10], [60, 90], [0, 0]])
    assert pooled_regions(rows) == [
        {"within": 10, "right": 20.0, "pixels": 50},
        {"within": 20, "right": 60.0, "pixels": 150},
        {"within": None, "right": 50.0, "pixels": 10},
    ]


def test_small_images_may_lack_outer_rings_and_rings_may_be_empty():
    assert pooled_regions(universal(PATCH, [[1, 4]], [[1, 1], [0, 2]])) == [
        {"within": 10, "right": 40.0, "pixels": 5},
        {"within": 20, "right": 0.0, "pixels": 2},
    ]
    bounded = replace(PATCH, fields={"rings": [10]})  # all beyond the last bound is a ring without one
    assert pooled_regions(universal(bounded, [[0, 0], [3, 4]])) == [
        {"within": 10, "right": None, "pixels": 0},
        {"within": None, "right": 75.0, "pixels": 4},
    ]


def test_the_records_of_universal_conditions():
    rows = accuracies([90, 70], "clean", None) + universal(PERTURBATION, None, None)
    rows += universal(PATCH, [[10, 40]], [[0, 10]])
    clean, patch, perturbation = summarise(rows, 2)
    assert (clean["study"], patch["name"], perturbation["name"]) == ("clean", "patch", "perturbation")
    assert (perturbation["study"], perturbation["norm"], perturbation["eps"]) == ("universal", "Linf", 8 / 255)
    assert perturbation["aAcc"] == patch["aAcc"] == 30.0
    assert patch["regions"] == [{"within": 10, "right": 20.0, "pixels": 50}]
    assert "regions" not in perturbation and "broken" not in perturbation and "median_distance" not in perturbation
