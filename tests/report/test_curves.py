import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from segrobust.report.curves import COLOURS, attack_curves, draw, run_curves, score_curve, upper_end
from segrobust.report.runs import load_runs

SVG = "{http://www.w3.org/2000/svg}"


def record(eps, value, ci=None):
    return {"eps": eps, "mIoU": value, "aAcc": value, "ci": {"mIoU": ci, "aAcc": ci}}


def parsed(svg):
    """The elements of a figure's panels below one."""
    return ET.fromstring(f"<figure>{svg}</figure>")  # noqa: S314


def texts(svg):
    return ["".join(node.itertext()) for node in parsed(svg).iter(f"{SVG}text")]


def marker_places(svg, colour):
    """Where the markers of a curve stand, panel by panel."""
    return [
        (float(use.get("x")), float(use.get("y")))
        for use in parsed(svg).iter(f"{SVG}use")
        if colour.lower() in use.get("style", "").lower()
    ]


STYLE = {"color": "#4477AA", "marker": "o"}


def test_the_curve_starts_at_the_clean_value_and_is_true_to_scale():
    line = score_curve("A", [record(1 / 255, 40.0), record(4 / 255, 10.0)], record(None, 60.0), STYLE)
    assert line.points["mIoU"] == [(0.0, 60.0, None), (1 / 255, 40.0, None), (4 / 255, 10.0, None)]
    (x0, y0), (x1, y1), (x4, y4), *_ = marker_places(draw([line], "Linf", "t"), "#4477aa")
    assert (x4 - x0) / (x1 - x0) == pytest.approx(4, rel=1e-4)
    assert (y4 - y0) / (y1 - y0) == pytest.approx(50 / 20, rel=1e-4)
    assert y0 < y1  # SVG counts downwards


def test_radii_are_in_255ths_and_wide_ranges_on_a_root_scale():
    wide = score_curve("A", [record(n / 255, 50.0) for n in (0.25, 0.5, 1, 8)], None, STYLE)
    svg = draw([wide], "Linf", "t")
    assert {"0", "0.25", "0.5", "1", "8", "eps, in 1/255 (square-root scale)", "mIoU (%)", "aAcc (%)"} <= set(
        texts(svg)
    )
    places = [x for x, _ in marker_places(svg, "#4477aa")][:4]
    assert (places[3] - places[0]) / (places[1] - places[0]) == pytest.approx(
        (8**0.5 - 0.5) / (0.5**0.5 - 0.5), rel=1e-3
    )
    narrow = texts(draw([score_curve("A", [record(0.5, 50.0)], None, STYLE)], "L2", "t"))
    assert {"0.5", "L2 radius, images in [0, 1]"} <= set(narrow)


def test_bands_are_drawn_where_there_are_intervals():
    def bands(ci):
        lines = [
            score_curve("A", [record(1 / 255, 40.0, ci), record(2 / 255, 30.0, ci)], record(None, 60.0, ci), STYLE)
        ]
        nodes = parsed(draw(lines, "Linf", "t")).iter(f"{SVG}g")
        return [node for node in nodes if node.get("id", "").startswith("FillBetween")]

    assert len(bands((5.0, 70.0))) == 2  # one per panel
    assert bands(None) == []


@pytest.mark.parametrize(
    "label", ["<script>\"'&", "_hidden", "$x$", "new\nline", "\x00\x1b[31m", "\u7b2c\U0001f600", "x" * 500]
)
def test_any_label_gives_a_sound_figure(label):
    lines = [
        score_curve(label, [record(1 / 255, 40.0)], None, STYLE),
        score_curve("B", [record(1 / 255, 30.0)], None, STYLE),
    ]
    svg = draw(lines, "Linf", label)
    shown = " ".join("".join(c if c.isprintable() else " " for c in label).split())
    assert any(shown[:39] in text for text in texts(svg))
    assert "<script" not in svg


def test_figures_take_the_colour_of_the_page_and_are_the_same_every_time():
    lines = [score_curve("A", [record(1 / 255, 40.0)], None, STYLE)]
    svg = draw(lines, "Linf", "t")
    panels = [node.get("aria-label") for node in parsed(svg)]
    assert panels == ["t: mIoU (%)", "t: aAcc (%)"] and svg.startswith('<svg role="img" ')
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "<metadata" not in svg
    assert svg == draw(lines, "Linf", "t")


def test_an_attack_keeps_its_colour_in_every_run(make_run):
    both = load_runs(
        [make_run("standard", attacks=("CEPGD", "TsallisPGD")), make_run("robust", attacks=("TsallisPGD",))]
    )
    names = ["CEPGD", "TsallisPGD", "worst_case"]
    first, second = ({line.label: line for line in attack_curves(run, "Linf", names)} for run in both)
    assert first["TsallisPGD"].style == second["TsallisPGD"].style != first["CEPGD"].style
    assert list(first) == ["CEPGD", "TsallisPGD", "worst case"]
    compared = run_curves(both, "Linf")
    assert [line.label for line in compared] == ["standard", "robust"]
    assert compared[0].style["linestyle"] != compared[1].style["linestyle"]
    highest = max(run.clean["aAcc"] for run in both)
    assert highest < upper_end(both) <= highest + 12


# How colours look without one kind of cones: Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISIONS = {
    "usual": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colours):
    values = np.array([[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in colours])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    x, y, z = np.cbrt(np.clip(rgb @ TO_XYZ.T / [0.9505, 1, 1.089], 0.009, None)).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_of_curves_stay_apart_for_every_kind_of_colour_vision(vision):
    seen = lab(np.clip(linear(COLOURS) @ np.array(VISIONS[vision]).T, 0, 1))
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 24  # 2.3 is just noticeable


@pytest.mark.parametrize("page", ["#ffffff", "#15181c"])
def test_colours_of_curves_stand_out_from_both_pages(page):
    of_page, *of_curves = linear([page, *COLOURS]) @ TO_XYZ[1]
    assert all((max(one, of_page) + 0.05) / (min(one, of_page) + 0.05) >= 3 for one in of_curves)  # WCAG 1.4.11
