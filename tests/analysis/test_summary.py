import json
from dataclasses import replace

import numpy as np
import pytest

from segrobust.analysis.metrics import pooled
from segrobust.analysis.summary import per_image_accuracy, summarise
from segrobust.core.rows import Condition, Row

PASSES = {"forwards": 10, "backwards": 9}


def condition(name="clean", eps=None, norm="Linf", candidate=""):
    """Of the clean images, or of an attack whose name is all that sets it apart."""
    if name == "clean":
        return Condition("clean", name)
    control = name == "UniformNoise"
    return Condition("attack", name, norm, eps, candidate=candidate, control=control, fields={"type": name})


def row(image, attack="clean", eps=None, tp=(0, 0), fp=(0, 0), fn=(0, 0), norm="Linf", candidate="", **more):
    classes = [c for c in range(len(tp)) if tp[c] + fp[c] + fn[c]]
    counts = {name: [field[c] for c in classes] for name, field in (("tp", tp), ("fp", fp), ("fn", fn))}
    extra = PASSES | {"distance": eps or 0.0} | more
    return Row(image, condition(attack, eps, norm, candidate), {"classes": classes} | counts, extra)


def accuracies(values, attack, eps, **more):
    """One row per value: that many of 100 pixels right, all of class 0."""
    return [row(i, attack, eps, (v, 0), (0, 100 - v), (100 - v, 0), **more) for i, v in enumerate(values)]


def adding(rows, *extras):
    """The rows with more in their ``extra``, one mapping each."""
    return [replace(one, extra={**one.extra, **extra}) for one, extra in zip(rows, extras, strict=True)]


@pytest.fixture
def rows():
    return [
        *accuracies([90, 80, 70], "clean", None, forwards=1, backwards=0),
        *accuracies([85, 80, 70], "UniformNoise", 0.01, forwards=1, backwards=0),
        *accuracies([85, 75, 70], "UniformNoise", 0.02, forwards=1, backwards=0),
        *accuracies([50, 40, 30], "CEPGD", 0.01),
        *accuracies([20, 60, 30], "TsallisPGD", 0.01),
    ]


def test_records_are_in_order_and_complete(rows):
    records = summarise(rows[::-1], 3)
    assert [(r["name"], r["eps"]) for r in records] == [
        ("clean", None),
        ("CEPGD", 0.01),
        ("TsallisPGD", 0.01),
        ("UniformNoise", 0.01),
        ("UniformNoise", 0.02),
        ("worst_case", 0.01),
    ]
    clean = records[0]
    assert (clean["aAcc"], clean["mAcc"], clean["mIoU"]) == (80.0, 80.0, 80.0)
    assert (clean["images"], clean["forwards"], clean["backwards"], clean["seconds"]) == (3, 1.0, 0.0, None)
    assert clean["iou"] == [80.0, None, None]
    assert clean["norm"] is None
    low, high = clean["ci"]["mIoU"]
    assert 70.0 <= low < 80.0 < high <= 90.0
    assert json.loads(json.dumps(records, allow_nan=False)) == records


def test_scores_are_pooled_over_pixels_not_averaged_over_images():
    rows = [row(0, tp=(8, 0), fp=(0, 2), fn=(2, 0)), row(1, tp=(10, 30), fp=(50, 0), fn=(0, 50))]
    record = summarise(rows, 2)[0]
    assert record["aAcc"] == 48.0
    assert record["mAcc"] == round((18 / 20 + 30 / 80) / 2 * 100, 4)
    assert record["iou"] == [round(18 / 70 * 100, 4), round(30 / 82 * 100, 4)]
    assert record["mIoU"] == round((18 / 70 + 30 / 82) / 2 * 100, 4)


def test_worst_case_takes_each_image_at_its_lowest(rows):
    worst = summarise(rows, 3)[-1]
    assert worst["aAcc"] == pytest.approx((20 + 40 + 30) / 3, abs=1e-4)
    assert worst["chosen"] == {"CEPGD": 2, "TsallisPGD": 1}  # a tie goes to the first name
    assert (worst["images"], worst["forwards"], worst["backwards"]) == (3, 21.0, 18.0)


def test_worst_case_equals_a_loop_over_random_rows():
    rng = np.random.default_rng(0)
    rows = []
    for attack in ("A", "B", "UniformNoise"):
        for image in range(20):
            truth = rng.integers(0, 50, 4) + 1
            tp = rng.binomial(truth, rng.random())
            fn = truth - tp
            rows.append(row(image, attack, 0.5, tp.tolist(), np.roll(fn, 1).tolist(), fn.tolist()))
    summed = np.zeros((3, 4), dtype=int)
    for image in range(20):
        mine = [r for r in rows if r.image == image]
        worst = min(mine, key=lambda r: sum(r.counts["tp"]) / (sum(r.counts["tp"]) + sum(r.counts["fn"])))
        for field, name in enumerate(("tp", "fp", "fn")):
            for c, n in zip(worst.counts["classes"], worst.counts[name], strict=True):
                summed[field, c] += n
    record = summarise(rows, 4)[-1]
    assert record["name"] == "worst_case"
    assert [record["aAcc"], record["mAcc"], record["mIoU"]] == pytest.approx(list(pooled(*summed)), abs=1e-4)
    assert record["aAcc"] < min(r["aAcc"] for r in summarise(rows, 4)[:-1])


def test_other_controls_and_norms_are_kept_apart(rows):
    rows += accuracies([10, 10, 10], "CEPGD", 0.01, norm="L2")
    rows = [replace(one, condition=replace(one.condition, control=False)) for one in rows]
    worst = [r for r in summarise(rows, 3) if r["name"] == "worst_case"]
    assert [(r["norm"], r["eps"]) for r in worst] == [("L2", 0.01), ("Linf", 0.01), ("Linf", 0.02)]
    assert worst[0]["aAcc"] == 10.0


def test_seconds_are_summed_and_repeated_entries_count_once(rows):
    timing = [{"condition": condition("CEPGD", 0.01).id, "image": i, "seconds": 1.5} for i in (0, 1, 2, 2)]
    timing += [{"condition": condition("TsallisPGD", 0.01).id, "image": 0, "seconds": 4.0}]
    seconds = {(r["name"], r["eps"]): r["seconds"] for r in summarise(rows, 3, timing)}
    assert seconds["CEPGD", 0.01] == 4.5
    assert seconds["worst_case", 0.01] == 8.5
    assert seconds["clean", None] is None


def test_images_per_second_and_peak_memory(rows):
    def timing(row, seconds, **more):
        return {"condition": row.condition.id, "image": row.image, "seconds": seconds, **more}

    costs = [timing(row, 0.5, peak_bytes=10**9 + row.image) for row in rows if row.condition.name == "CEPGD"]
    costs += [timing(row, 0.25) for row in rows if row.condition.name == "TsallisPGD"]
    records = {record["name"]: record for record in summarise(rows, 3, costs)}
    assert [records["CEPGD"][name] for name in ("images_per_second", "peak_bytes")] == [2.0, 10**9 + 2]
    assert [records["TsallisPGD"][name] for name in ("images_per_second", "peak_bytes")] == [4.0, None]
    assert [records["clean"][name] for name in ("images_per_second", "peak_bytes")] == [None, None]
    worst = records["worst_case"]
    assert worst["seconds"] == 2.25 and worst["peak_bytes"] == 10**9 + 2
    assert worst["images_per_second"] == pytest.approx(3 * (6 / 9) / 2.25, abs=1e-4)  # noise was not timed


def test_images_without_labels_are_no_worst_case_trouble():
    rows = [row(0, "CEPGD", 0.1), *accuracies([0, 40], "CEPGD", 0.1)[1:]]
    record = summarise(rows, 2)[-1]
    assert (record["images"], record["aAcc"]) == (2, 40.0)
    assert np.isnan(per_image_accuracy(rows)[0]) and per_image_accuracy(rows)[1] == 40.0
    alone = summarise(rows[:1], 2)[0]
    assert (alone["aAcc"], alone["mIoU"], alone["iou"], alone["ci"]["aAcc"]) == (None, None, [None, None], None)


def test_minimum_norm_attacks_have_distances_and_no_worst_case():
    known = [(0.002, True), (0.001, True), (0.0001, False)]
    extras = [{"distance": distance, "found": found} for distance, found in known]
    rows = adding(accuracies([1, 2, 0], "ALMAProx", None), *extras)
    (record,) = summarise(rows, 2)
    assert record["median_distance"] == 0.002
    assert record["found"] == pytest.approx(66.6667)
    assert record["apsr"] == 99.0
    rows = adding(rows, {"found": False}, {}, {})
    assert summarise(rows, 2)[0]["median_distance"] is None


def smallest(distances, **more):
    rows = accuracies([0] * len(distances), "ALMAProx", None, **more)
    return adding(rows, *({"distance": 0.5 if one is None else one, "found": one is not None} for one in distances))


def test_a_median_of_an_even_number_is_finite_only_if_both_in_the_middle_are():
    assert summarise(smallest([0.1, 0.3, 0.2, None]), 2)[0]["median_distance"] == 0.25
    half = summarise(smallest([0.1, None, 0.2, None]), 2)[0]
    assert half["median_distance"] is None and half["found"] == 50.0
    assert half["quantiles"] == {"25": 0.175, "75": None}
    assert half["distances"] == [0.1, 0.2, None, None]
    assert half["ci"]["median_distance"] == [0.1, None]
    none = summarise(smallest([None, None]), 2)[0]
    assert (none["median_distance"], none["ci"]["median_distance"], none["found"]) == (None, None, 0.0)
    assert json.loads(json.dumps(half, allow_nan=False)) == half


def test_eight_bits_and_initially_correct_pixels():
    known = [(0.2, 1.0), (np.inf, 0.5), (0.4, 0.75)]
    extras = [{"distance_8bit": rounded, "error_of_correct": share} for rounded, share in known]
    rows = adding(smallest([0.1, 0.2, 0.3]), *extras)
    record = summarise(rows, 2)[0]
    assert record["median_distance_8bit"] == 0.4
    assert (record["found_8bit"], record["apsr_correct"]) == (66.6667, 75.0)
    plain = summarise(smallest([0.1]), 2)[0]
    assert "median_distance_8bit" not in plain and plain["apsr_correct"] is None


def test_images_without_a_labelled_pixel_are_no_failures():
    rows = [*smallest([0.1, 0.2, 0.3]), row(3, "ALMAProx", None, found=False)]
    record = summarise(rows, 2)[0]
    assert (record["images"], record["median_distance"], record["found"]) == (4, 0.2, 100.0)
    alone = summarise(rows[3:], 2)[0]
    assert (alone["median_distance"], alone["found"], alone["apsr"], alone["distances"]) == (None, None, None, [])


def test_what_is_broken_stays_broken_at_larger_radii():
    found = {("A", 0.1): [1, 0, 0, 0], ("A", 0.2): [0, 1, 0, 0], ("B", 0.2): [0, 0, 1, 0]}
    rows = accuracies([90, 90, 90, 1], "clean", None)  # the last image needs no attack
    for (attack, eps), flags in found.items():
        attacked = accuracies([50] * 4, attack, eps)
        rows += adding(attacked, *({"found": bool(flag)} for flag in flags))
    broken = {(r["name"], r["eps"]): r["broken"] for r in summarise(rows, 2)}
    assert broken == {
        ("clean", None): 25.0, ("A", 0.1): 50.0, ("A", 0.2): 75.0, ("B", 0.2): 50.0,
        ("worst_case", 0.1): 50.0, ("worst_case", 0.2): 100.0,
    }  # fmt: skip


def test_targeted_runs_count_pixels_at_their_target():
    rows = accuracies([90, 80], "clean", None, at_target=10, target_pixels=80)
    rows += accuracies([40, 20], "A", 0.1, at_target=60, target_pixels=80)
    rows += accuracies([10, 90], "B", 0.1, at_target=20, target_pixels=80)
    rows += smallest([0.2, None], at_target=76, target_pixels=80)
    records = {(r["name"], r["eps"]): r for r in summarise(rows, 2)}
    assert {key: r["apsr"] for key, r in records.items()} == {
        ("clean", None): 12.5, ("A", 0.1): 75.0, ("B", 0.1): 25.0, ("ALMAProx", None): 95.0, ("worst_case", 0.1): 50.0,
    }  # fmt: skip
    assert records["worst_case", 0.1]["aAcc"] == 15.0  # still by what is right: B on the first, A on the second image


def test_a_condition_without_all_images_is_left_out_and_named(rows, caplog):
    """A run that was given another radius, and then killed: what it has of it is in no record and no worst case."""
    rows = [*rows, *accuracies([0, 0], "CEPGD", 0.02), *accuracies([0], "SEA", 0.02, candidate="b")]
    records = summarise(rows, 3)
    assert [(r["name"], r["eps"]) for r in records if r["eps"] == 0.02] == [("UniformNoise", 0.02)]
    (warning,) = caplog.messages
    assert "CEPGD 5.1/255 (2 of 3 images), SEA 5.1/255 (1 of 3 images)" in warning
    caplog.clear()
    assert summarise(rows[:-3], 3) == records and not caplog.messages
    assert summarise(rows[:-3], 3, images=4) == [] and "clean (3 of 4 images)" in caplog.text


def test_conditions_of_one_name_and_other_settings_have_records_of_their_own(rows):
    longer = replace(condition("CEPGD", 0.01), fields={"type": "CEPGD", "steps": 500})
    rows += [replace(one, condition=longer) for one in accuracies([0, 0, 90], "CEPGD", 0.01)]
    of_name = [r for r in summarise(rows, 3) if r["name"] == "CEPGD"]
    assert sorted((r["aAcc"], r["broken"]) for r in of_name) == [(30.0, 66.6667), (40.0, 0.0)]
