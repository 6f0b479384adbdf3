"""Tables, figures and model cards of made-up runs: the summary's numbers, and no name that does anything in a file."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from segrobust.analysis.summary import summarise
from segrobust.core.errors import UserError
from segrobust.core.rows import Condition
from segrobust.models.shipped import zoo
from segrobust.report import export
from segrobust.report.columns import IMAGES, RECORDS, described
from segrobust.report.exports import latex_escaped
from segrobust.report.records import _ALWAYS, _SOMETIMES
from segrobust.runs.folder import RunFolder
from tests.report.conftest import extended, row, summarised

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "=2+3|\\input{x}&%$#_{}~^<b>*[a](b)`\u202e\n\"'"


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def minimum_norm(path):
    """The same run with a minimum-norm attack that misses two of four images."""
    condition = Condition("attack", "FMN", "Linf", fields={"type": "FMN"})
    made = [row(n, condition, 0, found=n < 2, distance=0.01 * (n + 1), distance_8bit=0.5) for n in range(4)]
    return extended(path, made)


def test_the_csv_has_the_numbers_of_the_summary(make_run, tmp_path):
    folder = minimum_norm(make_run())
    (path,) = export([folder], csv=tmp_path / "new" / "all.csv")
    lines, records = table(path), RunFolder(folder).read_json("summary.json")
    assert list(lines[0]) == [column.name for column in RECORDS] and len(lines) == len(records)
    for line, record in zip(lines, records, strict=True):
        for name in ("eps", "aAcc", "mAcc", "mIoU", "mIoU_greedy", "mIoU_images", "broken", "found", "seconds"):
            assert line[name] == ("" if record.get(name) is None else str(record[name])), name
        assert (line["mIoU_low"], line["mIoU_high"]) == tuple(map(str, record["ci"]["mIoU"]))
        assert (line["run"], line["data"], line["images"]) == ("mine", "CamVid", "4")
    (searched,) = (line for line in lines if line["name"] == "FMN")
    assert (searched["median_distance"], searched["distance_25"]) == ("inf", "0.0175")
    assert {line["median_distance"] for line in lines if line["name"] != "FMN"} == {""}


def test_the_rows_have_their_counts(make_run, tmp_path):
    folder = minimum_norm(make_run())
    (path,) = export([folder], rows_csv=tmp_path / "rows.csv")
    lines, rows = table(path), RunFolder(folder).complete_rows()
    assert list(lines[0]) == [column.name for column in IMAGES] and len(lines) == len(rows)
    for line, one in zip(lines, rows, strict=True):
        right, labelled = sum(one.counts["tp"]), sum(one.counts["tp"]) + sum(one.counts["fn"])
        assert (line["image"], line["right"], line["pixels"]) == (str(one.image), str(right), str(labelled))
        assert float(line["aAcc"]) == pytest.approx(100 * right / labelled, abs=1e-4)
        ious = [tp / (tp + fp + fn) for tp, fp, fn in zip(*(one.counts[n] for n in ("tp", "fp", "fn")), strict=True)]
        assert float(line["mIoU"]) == pytest.approx(100 * sum(ious) / len(ious), abs=1e-4)
        assert (line["found"], float(line["distance"])) == (str(int(one.found)), one.extra["distance"])
        assert line["file"] == "x.png" and line["name"] == one.condition.name


def test_every_field_of_a_record_has_a_column_and_every_column_a_meaning(make_run):
    known = {column.name for column in RECORDS}
    without = {"iou", "ci", "distances", "quantiles", "degradation", "regions", "sizes", "convergence"}  # not flat
    assert {*_ALWAYS, *_SOMETIMES} - without <= known
    for columns in (RECORDS, IMAGES):
        names = [column.name for column in columns]
        assert len(names) == len(set(names)) and all(column.meaning for column in columns)


def test_the_documentation_describes_these_columns():
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")]
    pages = [page for page in pages if "| column | unit | meaning |" in page]
    if not pages:
        pytest.skip("no page of the documentation has a table of columns")
    assert any(described(RECORDS) in page and described(IMAGES) in page for page in pages)


def test_latex_and_markdown_show_the_numbers_and_mark_the_best(make_run, tmp_path):
    folders = [make_run("robust"), make_run("standard")]
    latex, markdown = export(folders, latex=tmp_path / "t.tex", markdown=tmp_path / "t.md")
    scores = {}
    for folder in folders:
        for record in RunFolder(folder).read_json("summary.json"):
            scores[folder.name, record["name"], record["eps"]] = record["mIoU"]
    better, worse = (scores[name, "CEPGD", 4 / 255] for name in ("robust", "standard"))
    assert better > worse
    lines = latex.read_text().splitlines()
    (line,) = (one for one in lines if one.startswith("robust & CEPGD") and "4/255" in one)
    assert f"\\textbf{{{better:.2f}}}" in line
    (line,) = (one for one in lines if one.startswith("standard & CEPGD") and "4/255" in one)
    assert f"& {worse:.2f} &" in line and f"\\textbf{{{worse:.2f}}}" not in line
    assert lines.count("\\toprule") == lines.count("\\midrule") == lines.count("\\bottomrule") == 1
    assert "Scores in percent on CamVid, 4 images" in latex.read_text()
    assert f"| **{better:.2f}** |" in markdown.read_text() and f"| {worse:.2f} |" in markdown.read_text()
    widths = {len(re.findall(r"(?<!\\)\|", one)) for one in markdown.read_text().splitlines() if one.startswith("|")}
    assert len(widths) == 1


def test_runs_on_different_data_are_told_apart_and_nothing_is_marked(make_run, tmp_path, caplog):
    first, second = make_run("first"), make_run("second", protocol="city-full")
    with caplog.at_level(logging.WARNING):
        files = {"csv": tmp_path / "t.csv", "latex": tmp_path / "t.tex", "markdown": tmp_path / "t.md"}
        numbers, latex, markdown = export([first, second], **files)
    assert "do not compare" in caplog.text and "city-full" in caplog.text
    for path in (latex, markdown):
        assert "do not compare" in path.read_text()
    assert "textbf" not in latex.read_text() and "**" not in markdown.read_text()
    assert {line["protocol"] for line in table(numbers)} == {"", "city-full"}
    caplog.clear()
    export([first], csv=tmp_path / "t.csv")
    assert not caplog.messages


def test_hostile_names_are_text_in_every_file(make_run, tmp_path):
    folder = make_run(text=HOSTILE)
    files = {"csv": "a.csv", "rows_csv": "r.csv", "latex": "a.tex", "markdown": "a.md", "model_card": "README.md"}
    written = export([folder], **{kind: tmp_path / name for kind, name in files.items()})
    texts = {path.name: path.read_text(encoding="utf-8") for path in written}
    assert all(line["model"].startswith("'=2+3") for line in table(tmp_path / "a.csv"))
    assert "\\input" not in texts["a.tex"] and r"\textbackslash{}input\{x\}\&\%\$\#\_" in texts["a.tex"]
    for name in ("a.md", "README.md"):
        body = texts[name].split("\n---\n")[-1]
        assert "<b>" not in body.replace(r"\<b\>", "") and "[a](" not in body
    card = ModelCard(texts["README.md"])
    assert len(card.data.eval_results) == 3
    assert latex_escaped("a~^") == r"a\textasciitilde{}\textasciicircum{}"


def test_figures_have_their_fonts_and_the_same_bytes_each_time(make_run, tmp_path):
    folders = [make_run("robust"), make_run("standard")]
    first, second = (export(folders, figures=tmp_path / name) for name in ("one", "two"))
    names = ["worst-case-Linf", "robust-Linf", "standard-Linf"]
    assert [path.name for path in first] == [f"{name}.{ending}" for name in names for ending in ("pdf", "svg")]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    for path in first:
        content = path.read_bytes()
        if path.suffix == ".pdf":
            assert content.startswith(b"%PDF") and b"/FontFile2" in content and b"CreationDate" not in content
        else:
            assert b"<text" not in content and content.rstrip().endswith(b"</svg>")
    with pytest.raises(UserError, match="--figures: expected a run with attacks at radii"):
        export([make_run("clean", attacks=())], figures=tmp_path / "none")


def test_the_card_is_read_back_by_the_hubs_library(make_run, tmp_path):
    folder = make_run()
    card, results = export([folder], model_card=tmp_path / "README.md")
    records = {(r["name"], r["eps"]): r for r in RunFolder(folder).read_json("summary.json")}
    read = ModelCard.load(card)
    assert (read.data.library_name, read.data.pipeline_tag, read.data.license) == (
        "segrobust", "image-segmentation", None,
    )  # fmt: skip
    wanted = [("mIoU, clean (%)", records["clean", None]["mIoU"])]
    for eps in (1, 4):
        worst = records["worst_case", eps / 255]
        wanted.append((f"mIoU, worst case at Linf {eps}/255 (%)", min(worst["mIoU"], worst["mIoU_greedy"])))
    found = read.data.eval_results
    assert [(one.metric_name, one.metric_value) for one in found] == wanted
    assert {(one.task_type, one.dataset_name, one.metric_type) for one in found} == {
        ("image-segmentation", "CamVid", "mean_iou")
    }
    assert found[2].metric_args == {"norm": "Linf", "eps": 4 / 255, "attacks": ["CEPGD", "TsallisPGD"]}
    entries = parse_eval_result_entries(yaml.safe_load(results.read_text()))
    assert results == tmp_path / ".eval_results" / "segrobust.yaml"
    assert [one.value for one in entries] == [value for _, value in wanted]
    assert [one.task_id for one in entries] == ["clean", "robust-linf-1-255", "robust-linf-4-255"]
    assert {(one.dataset_id, one.date) for one in entries} == {("CamVid", "2026-11-24T00:12:05+00:00")}


def test_the_lowest_known_score_is_on_the_card(make_run, tmp_path):
    folder = make_run(radii=(1 / 255,))
    content = json.loads((folder / "summary.json").read_text())
    (worst,) = (record for record in content if record["name"] == "worst_case")
    worst["mIoU_greedy"] = worst["mIoU"] - 1.5
    (folder / "summary.json").write_text(json.dumps(content))
    card, _ = export([folder], model_card=tmp_path / "README.md")
    assert ModelCard.load(card).data.eval_results[1].metric_value == worst["mIoU_greedy"]


def test_only_shipped_weights_have_a_licence_that_is_known(make_run, tmp_path):
    name, entry = next(iter(zoo().items()))
    sha = hashlib.sha256(entry.weights_path.read_bytes()).hexdigest()
    for digest, licence in ((sha, "apache-2.0"), ("0" * 64, None)):
        folder = make_run(f"run-{digest[:4]}", config=name, checkpoint_sha256=digest)
        card, _ = export([folder], model_card=tmp_path / "README.md")
        assert ModelCard.load(card).data.license == licence


def test_a_card_is_of_one_model_on_one_data_set(make_run, tmp_path):
    folders = [make_run("one"), make_run("two", checkpoint_sha256="00" * 32)]
    with pytest.raises(UserError, match="--model-card: expected runs of one model, got several in one, two"):
        export(folders, model_card=tmp_path / "README.md")


def test_what_pandas_takes(make_run, tmp_path):
    """Every value of a column is a number, or every value is a text; missing ones are empty."""
    (path,) = export([minimum_norm(make_run())], csv=tmp_path / "a.csv")
    texts = {column.name for column in RECORDS if column.unit == ""} - {"severity", "images", "judged", "types"}
    for line in table(path):
        for name, value in line.items():
            if name not in texts and value:
                assert not math.isnan(float(value)), name


def test_old_summaries_without_the_new_fields_are_exported_too(make_run, tmp_path):
    folder = make_run()
    content = json.loads((folder / "summary.json").read_text())
    for record in content:
        record.pop("mIoU_images")
    (folder / "summary.json").write_text(json.dumps(content))
    (path,) = export([folder], csv=tmp_path / "a.csv")
    assert {line["mIoU_images"] for line in table(path)} == {""}
    assert summarised(RunFolder(folder)) == folder and summarise([], 3) == []
