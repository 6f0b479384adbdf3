import io

import pytest
from rich.console import Console

from segrobust.report.table import print_table


def record(attack, eps, aacc=12.345, miou=6.789, norm="Linf"):
    study = attack if attack in ("clean", "worst_case") else "attack"
    return {
        "study": study,
        "name": attack,
        "norm": norm if eps else None,
        "eps": eps,
        "images": 48,
        "aAcc": aacc,
        "mIoU": miou,
    }


def printed(summaries, width=100, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    print_table(summaries, console)
    return console.file.getvalue()


RADII = [n / 255 for n in (0.25, 0.5, 1, 2, 12)]


def test_five_radii_fit_a_hundred_columns():
    names = ("BalancedPGD:published#2", "TsallisPGD", "worst_case")
    records = [record("clean", None, 100.0, 100.0)] + [record(n, e, 100.0, 100.0) for n in names for e in RADII]
    lines = printed({"standard": records, "robust": records}).splitlines()
    assert max(map(len, lines)) <= 100
    for name in ("BalancedPGD:", "TsallisPGD", "worst case"):
        mine = [line for line in lines if line.startswith(name)]
        assert len(mine) == 2  # one line per attack in each run's block
        assert all(line.count("100.00 / 100.00") == 5 for line in mine)
    assert "standard: clean 100.00 / 100.00 on 48 images" in lines[0]
    assert all(f"{n}/255" in lines[1] for n in ("0.25", "0.5", "1", "2", "12"))


@pytest.mark.parametrize(("width", "tables"), [(200, 1), (100, 2), (50, 4)])
def test_more_radii_than_fit_go_below(width, tables):
    records = [record("CEPGD", n / 255, aacc=n) for n in range(1, 9)]
    text = printed({"run": records}, width)
    assert text.count("CEPGD") == tables
    assert all(f"{n}.00 / 6.79" in text for n in range(1, 9))
    assert max(map(len, text.splitlines())) <= width


def test_the_worst_miou_has_a_line_of_its_own_where_the_search_found_a_lower_one():
    worst = [
        record("worst_case", n / 255) | {"mIoU_greedy": 5.5 * n, "mIoU_gap": gap} for n, gap in ((1, 1.289), (2, 0))
    ]
    lines = printed({"run": worst}).splitlines()
    assert [line.split() for line in lines if "greedy" in line] == [["greedy", "mIoU", "5.50"]]
    assert "greedy" not in printed({"run": worst[1:]})


def test_missing_numbers_and_other_norms_are_shown():
    records = [record("clean", None), record("CEPGD", 1 / 255), record("SegPGD", 2 / 255, miou=None)]
    text = printed({"run": [*records, record("CEPGD", 0.5, norm="L2")]})
    assert "12.35 / -" in text or "12.34 / -" in text
    cells = [line.split() for line in text.splitlines() if line.startswith("SegPGD")]
    assert cells[0][1] == "-"  # not run at 1/255
    (header,) = [line.split() for line in text.splitlines() if line.startswith("L2")]
    assert header == ["L2", "0.5"]  # not 127.5/255


def test_minimum_norm_attacks_have_a_table():
    alma = {
        **record("ALMAProx", None), "norm": "Linf", "median_distance": 0.5 / 255, "found": 87.5, "apsr": 99.0,
        "apsr_correct": 98.75, "ci": {"median_distance": (0.25 / 255, None)}, "median_distance_8bit": 1 / 255,
    }  # fmt: skip
    text = printed({"run": [alma]}, width=120)
    (line,) = [line.split() for line in text.splitlines() if line.startswith("ALMAProx")]
    assert line == ["ALMAProx", "(Linf)", "0.5/255", "0.25/255\u2013\u221e", "87.50", "99.00", "98.75", "1/255"]
    lost = {
        **alma,
        "norm": "L2",
        "median_distance": None,
        "ci": {"median_distance": None},
        "median_distance_8bit": None,
    }
    (line,) = [line for line in printed({"run": [lost]}, width=80).splitlines() if line.startswith("ALMAProx")]
    assert line.split() == ["ALMAProx", "(L2)", "not", "found", "87.50", "99.00", "98.75", "lost"]
    del lost["median_distance_8bit"]
    assert printed({"run": [lost]}, width=120).split()[-1] == "-"


def test_targeted_runs_show_the_pixels_at_their_target():
    clean, attacked = record("clean", None), record("CEPGD", 1 / 255)
    text = printed({"run": [{**clean, "apsr": 1.5}, {**attacked, "apsr": 93.25}]})
    assert "aAcc / mIoU / at target in %" in text
    assert "/ 6.79 / 93.25" in text


def test_markup_in_names_is_not_obeyed():
    text = printed({"[red]run[/red] [/]": [record("[bold]x", 1 / 255), record("clean", None)]}, force_terminal=True)
    assert "[red]run[/red] [/]" in text
    assert "[bold]x" in text


def test_a_narrow_table_keeps_the_name_of_the_model_that_was_attacked_instead():
    name = "BalancedPGD:published@camvid-fpn-r18w24-std-180x240"
    lines = printed({"run": [record(name, n / 255) for n in range(1, 6)]}, width=90).splitlines()
    assert max(map(len, lines)) <= 90
    assert "".join(line[:18].strip() for line in lines[3:]) == name
