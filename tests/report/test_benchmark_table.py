"""The table of a benchmark: the numbers of the runs, ranked, and models on different data apart."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from segrobust.core.rows import Condition
from segrobust.report.benchmark_table import as_markdown, benchmark_tables, print_benchmark
from segrobust.report.texts import interval, percent
from segrobust.runs.folder import RunFolder
from tests.report.conftest import extended, row

SCORES = ("aAcc", "mIoU_greedy")


def records(path):
    return json.loads((path / "summary.json").read_text())


def worst(path, eps):
    (record,) = [one for one in records(path) if one["study"] == "worst_case" and one["eps"] == eps / 255]
    return record


def column(table, title):
    at = table.titles.index(title)
    return {line[1]: line[at] for line in table.lines}


def test_numbers_are_those_of_the_runs_and_the_best_worst_case_comes_first(make_run):
    weak, strong = make_run("standard"), make_run("robust")
    for path in (weak, strong):  # the greedy search may find less than the images with the lowest aAcc have
        found = records(path)
        for one in found:
            if one["study"] == "worst_case":
                one["mIoU_greedy"], one["ci"]["mIoU_greedy"] = one["mIoU_greedy"] - 1, [1.0, 99.0]
        (path / "summary.json").write_text(json.dumps(found))
    (table,) = benchmark_tables([("weak", "a", weak), ("strong", "a", strong)])
    assert table.titles == (
        *("rank", "model", "clean", "worst case 1/255", "worst case 4/255"), *("trust", "passes", "hours")
    )  # fmt: skip
    assert [line[:2] for line in table.lines] == [("1", "strong"), ("2", "weak")]
    assert worst(strong, 4)["mIoU_greedy"] > worst(weak, 4)["mIoU_greedy"]
    for name, path in (("weak", weak), ("strong", strong)):
        for eps in (1, 4):
            record = worst(path, eps)
            scores = " / ".join(percent(record[metric]) for metric in SCORES)
            ends = " / ".join(interval(record["ci"][metric]) for metric in SCORES)
            assert column(table, f"worst case {eps}/255")[name] == f"{scores}\n{ends}"
        clean = records(path)[0]
        assert column(table, "clean")[name] == f"{percent(clean['aAcc'])} / {percent(clean['mIoU'])}"
    each = 4 * (1 + 2 * 2 * 201)  # images, a clean forward, attacks, radii, passes
    assert column(table, "passes") == {"weak": f"{each:,}", "strong": f"{each:,}"}
    assert column(table, "hours") == {"weak": f"{4 * 5 * 0.25 / 3600:.2f}", "strong": f"{4 * 5 * 0.25 / 3600:.2f}"}
    assert column(table, "trust") == {"weak": "not checked", "strong": "not checked"}
    assert table.ranked_by == "a at 4/255" and len(table.data) == 1 and table.data[0].startswith("4 images (data ")


def test_ranked_at_the_largest_radius_that_all_have(make_run):
    """The other model is better at 4/255, where only one was measured, and worse at the common 1/255."""
    near, far = make_run("near", radii=(1 / 255,)), make_run("standard", radii=(1 / 255, 4 / 255))
    (table,) = benchmark_tables([("far", "a", far), ("near", "a", near)])
    assert table.ranked_by == "a at 1/255" and [line[1] for line in table.lines] == ["near", "far"]
    assert column(table, "worst case 4/255")["near"] == "-"


def test_a_study_stands_in_front_where_two_have_a_column(make_run):
    runs = [("x", "easy", make_run("one")), ("x", "hard", make_run("standard")), ("y", "easy", make_run("three"))]
    (table,) = benchmark_tables(runs)
    assert [title for title in table.titles if "4/255" in title] == ["easy: worst case 4/255", "hard: worst case 4/255"]
    assert table.ranked_by == "easy at 4/255" and [line[1] for line in table.lines] == ["x", "y"]
    (table,) = benchmark_tables([*runs, ("y", "hard", make_run("four"))])
    assert table.ranked_by == "easy at 4/255, hard at 4/255 (the lower one counts)"
    assert [line[1] for line in table.lines] == ["y", "x"]


def test_minimum_norm_and_corruptions_have_columns(make_run):
    path, search = make_run("min"), Condition("attack", "FMN", "Linf")
    fog = [Condition("corruption", "fog", severity=n) for n in (1, 3)]
    rows = [row(n, search, 900, distance=(n + 1) / 255, found=n < 3) for n in range(4)]
    rows += [row(n, one, 700 - 100 * one.severity) for one in fog for n in range(4)]
    near = Condition("attack", "FMN", "Linf", 4 / 255)  # of the same search
    extended(path, [*rows, *(row(n, near, 800, found=True) for n in range(4))], [search, near, *fog])
    (table,) = benchmark_tables([("x", "a", path)])
    median, ends, found = column(table, "FMN (Linf), median")["x"].split("\n")
    assert (median, found) == ("2.5/255", "75.00 % found") and ends.startswith("1/255")
    assert column(table, "passes")["x"] == f"{4 * (1 + 2 * 2 * 201) + 4 * 1 + 2 * 4 * 1:,}"
    (mean,) = [one for one in records(path) if one["name"] == "mean" and one["severity"] is None]
    assert column(table, "corrupted")["x"] == f"{percent(mean['aAcc'])} / {percent(mean['mIoU'])}"


def test_models_on_other_data_stand_apart(make_run):
    same, other = make_run("same"), make_run("other", text="other.png")
    reduced = make_run("reduced", data_recipe="another")
    tables = benchmark_tables([("x", "a", same), ("y", "a", other), ("z", "a", reduced), ("w", "a", same)])
    assert [[line[1] for line in table.lines] for table in tables] == [["x", "w"], ["y"], ["z"]]
    apart = benchmark_tables([("x", "a", same), ("y", "b", other)])
    assert len(apart) == 2
    (joined,) = benchmark_tables([("x", "a", same), ("y", "b", same)])
    assert [line[:2] for line in joined.lines] == [("-", "x"), ("-", "y")] and not joined.ranked_by
    (both,) = benchmark_tables(
        [("x", "a", same), ("x", "b", other), ("y", "a", same)]
    )  # another study has other images
    assert len(both.lines) == 2 and [text[:2] for text in both.data] == ["a:", "b:"] and both.ranked_by == "a at 4/255"


def test_a_model_without_a_worst_case_comes_last(make_run):
    plain = make_run("plain", attacks=())
    (table,) = benchmark_tables([("plain", "b", plain), ("x", "a", make_run("x"))])
    assert [line[:2] for line in table.lines] == [("1", "x"), ("-", "plain")] and table.ranked_by == "a at 4/255"


def test_names_are_inert_in_markdown_and_on_a_terminal(make_run, capsys):
    name = "<script>a|b</script>[x](y)*\x1b[31m\u202e`"
    (table,) = benchmark_tables([(name, "a", make_run("x"))])
    lines = as_markdown(table)
    assert len(lines) == 3 and lines[0].count(" | ") == lines[2].count(" | ") == len(table.titles) - 1
    assert r"\<script\>a\|b\</script\>\[x\](y)\*" in lines[2]
    assert "\x1b" not in lines[2] and "\u202e" not in lines[2] and r"\`" in lines[2]
    assert "<br>" in lines[2]
    print_benchmark(table, Console(width=100, force_terminal=False))
    assert "a|b" in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 200])
def test_every_column_is_shown_whole(make_run, capsys, width):
    radii = tuple(n / 255 for n in (1, 2, 4, 8))
    (table,) = benchmark_tables([("some-model", "a", make_run("x", radii=radii))])
    print_benchmark(table, Console(width=width, force_terminal=False))
    out = capsys.readouterr().out
    for title, text in zip(table.titles, table.lines[0], strict=True):
        assert title in out and all(part in out for part in text.split("\n"))
    assert max(map(len, out.splitlines())) <= width and out.count("some-model") == (1 if width == 200 else 3)


def test_an_unfinished_run_is_refused(make_run, tmp_path):
    path = make_run("x")
    RunFolder(path).path.joinpath("summary.json").unlink()
    with pytest.raises(ValueError, match="not the folder of a finished run"):
        benchmark_tables([("x", "a", path)])
