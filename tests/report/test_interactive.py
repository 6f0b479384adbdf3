"""Interactive curves: only where asked for, with the numbers of the static ones; one clear line without plotly."""

import json
import sys

import pytest

from segrobust.cli import main
from segrobust.core.errors import UserError
from segrobust.report import build_report
from segrobust.report.curves import attack_curves
from segrobust.report.interactive import plot_json
from segrobust.report.runs import load_runs


def test_traces_hold_the_numbers_of_the_curves(make_run):
    (run,) = load_runs([make_run()])
    curves = attack_curves(run, "Linf", run.attack_names("Linf"))
    plot = json.loads(plot_json(curves, "Linf", 90.0))
    assert [trace["name"] for trace in plot["data"]] == ["CEPGD", "TsallisPGD", "worst case"] * 2
    first, second = plot["data"][0], plot["data"][3]
    assert (first["yaxis"], second["yaxis"]) == ("y", "y2") and plot["layout"]["yaxis2"]["range"] == [0, 90.0]
    records = [run.clean, *run.at_radius("Linf", "CEPGD")]
    for trace, metric in ((first, "mIoU"), (second, "aAcc")):
        assert trace["x"] == pytest.approx([0, 1, 4]) and trace["y"] == [record[metric] for record in records]
        ends = zip(trace["y"], trace["error_y"]["arrayminus"], trace["error_y"]["array"], strict=True)
        found = [[value - below, value + above] for value, below, above in ends]
        assert found == [pytest.approx(record["ci"][metric]) for record in records]
    assert plot["layout"]["xaxis"]["ticktext"] == ["0", "1/255", "4/255"]


def test_names_are_text_for_plotly_too(make_run):
    (run,) = load_runs([make_run(text="<a href='x'>y</a>&lt;")])
    curves = attack_curves(run, "Linf", run.attack_names("Linf"))
    names = {trace["name"] for trace in json.loads(plot_json(curves, "Linf", 90.0))["data"]}
    assert len(names) == 3 and not any("<" in name for name in names)
    assert any(name.startswith("&lt;a href=") for name in names)


def test_without_plotly_one_line_names_the_extra(make_run, monkeypatch, capsys):
    folder = make_run()
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UserError, match=r"pip install 'segrobust\[interactive\]'") as error:
        build_report([folder], interactive=True)
    assert "\n" not in str(error.value) and not (folder / "report.html").exists()
    assert main(["report", str(folder), "--interactive"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segrobust: error: --interactive: expected the package plotly")
    assert main(["report", str(folder)]) == 0 and "data-plot" not in (folder / "report.html").read_text()


def test_plotly_is_embedded_only_where_asked(make_run):
    pytest.importorskip("plotly", reason="needs plotly: pip install 'segrobust[interactive]'")
    folder = make_run()
    plain = build_report([folder]).read_text()
    large = build_report([folder], interactive=True).read_text()
    assert "Plotly" not in plain and len(plain) < 500_000 < 3_000_000 < len(large)
    assert large.count("<script>") == 3 and large.count("sha256-") == 3 and large.count("data-plot=") == 1
