"""Survival curves: exact for minimum-norm attacks, at their radii for bounded ones."""

import json

import pytest

from segrobust.report import build_report
from segrobust.report.curves import COLOURS
from segrobust.report.runs import load_runs
from segrobust.report.survival import survival, survival_curves, survival_figures
from segrobust.report.texts import format_distance, median_cell
from tests.report.test_curves import marker_places, texts
from tests.report.test_report import Page

RADII = (1 / 255, 4 / 255)


def with_distances(folder, distances, broken=(0.0, 25.0, 75.0), **more):
    """Give a run the result of a minimum-norm attack, and its bounded attacks' broken shares."""
    records = json.loads((folder / "summary.json").read_text())
    for record in records:
        record["broken"] = broken[0 if record["eps"] is None else 1 + RADII.index(record["eps"])]
    known = sorted(d for d in distances if d is not None)
    alma = {
        **records[1], "name": "ALMAProx", "eps": None, "median_distance": known[len(known) // 2] if known else None,
        "quantiles": {"25": None, "75": None}, "found": 75.0, "apsr": 99.0, "apsr_correct": 98.0,
        "distances": [*known, *[None] * (len(distances) - len(known))],
    } | more  # fmt: skip
    alma["ci"] = {**alma["ci"], "median_distance": [known[0], None] if known else None}
    (folder / "summary.json").write_text(json.dumps([*records, alma]))
    return folder


def test_survival_by_hand():
    assert survival([0.1, 0.2, 0.2, None], end=0.3) == [(0.0, 100.0), (0.1, 75.0), (0.2, 50.0), (0.2, 25.0), (0.3, 25)]
    assert survival([0.1, 0.5], end=0.3) == [(0.0, 100.0), (0.1, 50.0), (0.3, 50.0)]
    assert survival([0.0, 0.5], end=0.3) == [(0.0, 100.0), (0.0, 50.0), (0.3, 50.0)]
    assert survival([None], end=0.3) == [(0.0, 100.0), (0.3, 100.0)]
    assert survival([], end=0.3) == []


def test_both_kinds_of_attack_in_one_figure(make_run):
    (run,) = load_runs([with_distances(make_run(), [0.5 / 255, 2 / 255, 8 / 255, None])])
    lines = {line.label: line for line in survival_curves(run, "Linf", run.all_names("Linf"), 4 / 255)}
    assert list(lines) == ["CEPGD", "TsallisPGD", "worst case", "ALMAProx"]
    at_radii, exact = (lines[name] for name in ("CEPGD", "ALMAProx"))
    assert at_radii.points["survival"] == [(0.0, 100.0, None), (1 / 255, 75.0, None), (4 / 255, 25.0, None)]
    assert "drawstyle" not in at_radii.style and exact.style["drawstyle"] == "steps-post"
    assert [percent for _, percent, _ in exact.points["survival"]] == [100.0, 75.0, 50.0, 50.0]
    assert len({str(line.style["color"]) for line in lines.values()}) == 4
    ((title, svg),) = survival_figures([run], "Linf")
    assert title == "mine" and {"CEPGD", "ALMAProx", "images not broken (%)"} <= set(texts(svg))
    assert {"0", "1", "4"} <= set(texts(svg))
    (x0, y0), (x1, y1), (_, y4), *_ = marker_places(svg, COLOURS[0].lower())
    assert x0 < x1 and (y4 - y0) / (y1 - y0) == pytest.approx(3, rel=1e-3)


def test_the_axis_reaches_as_far_as_the_median(make_run):
    (run,) = load_runs([with_distances(make_run(), [10 / 255, 12 / 255, 14 / 255])])
    ((_, svg),) = survival_figures([run], "Linf")
    assert {"1", "4", "12"} <= set(texts(svg))


def test_no_figure_where_nothing_is_broken(make_run):
    (run,) = load_runs([make_run()])
    assert all(record["broken"] == 0 for record in run.records)
    assert survival_figures([run], "Linf") == []


def test_no_figure_without_an_image_that_counts(make_run):
    """A minimum-norm attack alone, on images of void: it has a radius, and no distance to draw."""
    folder = with_distances(make_run(), [])
    records = json.loads((folder / "summary.json").read_text())
    clean, alma = records[0], records[-1]
    at_radius = {name: value for name, value in alma.items() if name not in ("median_distance", "distances")}
    kept = [clean | {"broken": None}, alma, at_radius | {"eps": 1 / 255, "broken": None}]
    (folder / "summary.json").write_text(json.dumps(kept))
    assert survival_figures(load_runs([folder]), "Linf") == []


def test_the_report_shows_them(make_run):
    folder = with_distances(make_run(), [0.5 / 255, 2 / 255, 3 / 255, None], median_distance_8bit=None, found_8bit=25.0)
    page = Page(build_report([folder]).read_text())
    text = " ".join(page.text)
    for part in ("Minimum-norm attacks", "2/255", "0.5/255\u2013\u221e", "98.00", "lost", "25.00"):
        assert part in text
    assert "Images not broken within eps, Linf" in text
    assert [tag for tag, _ in page.tags].count("svg") == 3


def test_the_report_says_what_the_target_is(make_run):
    folder = make_run(target={"spec": "class:<b>", "class": 1})
    records = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps([{**record, "apsr": 61.25} for record in records]))
    text = " ".join(Page(build_report([folder]).read_text()).text)
    assert "Targeted attacks." in text and "class:<b>" in text
    assert "61.25" in text and "at target" in text
    assert "Targeted attacks." not in " ".join(Page(build_report([make_run("other")]).read_text()).text)


def test_distances_as_text():
    assert format_distance(0.83 / 255, "Linf") == "0.83/255"
    assert format_distance(0.83333 / 255, "Linf") == "0.833/255"
    assert format_distance(0.123456, "L2") == "0.1235"
    assert format_distance(None, "Linf") == "\u221e"
    record = {"norm": "Linf", "median_distance": 2 / 255, "ci": {"median_distance": (1 / 255, 4 / 255)}}
    assert median_cell(record) == ("2/255", "1\u20134/255")
    assert median_cell({**record, "norm": "L2", "ci": {"median_distance": (0.5, None)}})[1] == "0.5\u2013\u221e"
    assert median_cell({**record, "median_distance": None, "ci": {}}) == ("not found", "")
