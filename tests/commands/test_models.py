"""`segrobust models`: all of them in a table that fits, all about one, and the same for programs."""

from __future__ import annotations

import json
import re

import pytest

from segrobust.cli import main
from segrobust.commands.models import known_models
from segrobust.models.load import load_segmenter
from segrobust.models.published import PUBLISHED
from segrobust.models.shipped import zoo

ROBUST, STANDARD = "camvid-fpn-r18w24-sharppgdat-long-linf4-180x240", "camvid-fpn-r18w24-std-180x240"


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_the_tables_fit_the_terminal_and_name_every_model(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    tables = out[: out.index("segrobust evaluate NAME FILE")].splitlines()
    assert max(map(len, tables)) <= columns
    first = "".join(line.split("│")[1].strip() for line in tables if line.startswith("│"))
    assert all(name in first for name in (*zoo(), *PUBLISHED))
    assert "…" not in out


def test_all_about_a_published_one(capsys):
    assert main(["models", "pirat-upernet-convnext-t-voc"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "name: pirat-upernet-convnext-t-voc",
        "kind: published",
        "source: PIR-AT: Croce, Singh and Hein, ECCV 2024; github.com/nmndeep/Robust-Segmentation",
        "training: adversarial, Linf 4/255",
        "network: upernet_convnext_t_cvst",
        "data: VOC 2012",
        "classes: 21",
        "parameters: 60,181,610",
        "images: as they are, in [0, 1]",
        "protocol: short side 473, centre crop 473; void counts as background, nothing is ignored",
        "clean: aAcc 92.7 %, mIoU 75.2 %",
        "SEA 4/255: aAcc 88.6 %, mIoU 64.9 %",
        "SEA 8/255: aAcc 71.7 %, mIoU 34.6 %",
        "SEA 12/255: aAcc 28.1 %, mIoU 5.5 %",
        "scores from: SEA (300 steps): tables 1, 2, 3 and 6 of the paper (published, not reproduced)",
        "licence: none stated",
        "file: UperNet_ConvNext_T_VOC.pth",
        "layout: a bare state dict",
        "command: segrobust evaluate pirat-upernet-convnext-t-voc FILE --data-root DIR",
    ]


def test_what_has_no_scores_and_what_was_normalised(capsys):
    assert main(["models", "pirat-pspnet50-deepstem-voc"]) == 0
    out = capsys.readouterr().out
    assert "scores from" not in out and "file: no file published\n" in out
    assert main(["models", "ddcat-pspnet50-cityscapes-sat"]) == 0
    out = capsys.readouterr().out
    assert "images: normalised with ImageNet's mean and std\n" in out and "clean: mIoU 69.0 %\n" in out


@pytest.mark.parametrize("name", zoo())
def test_all_about_a_shipped_one_is_what_its_files_and_the_documentation_say(name, repository, capsys):
    assert main(["models", name]) == 0
    told = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    model, text = load_segmenter(name, device="cpu"), (repository / "docs" / "measured.md").read_text()
    count = sum(one.numel() for one in model.network.parameters())
    assert (told["kind"], told["classes"], told["parameters"]) == ("shipped", str(model.num_classes), f"{count:,}")
    assert (told["data"], told["images"]) == ("CamVid", "resized to 240x180")
    assert (told["licence"], told["command"]) == ("Apache-2.0", f"segrobust evaluate {name}")
    clean = re.search(rf"^\| `{name}` \| .* / .* \| .* / ([\d.]+) \|$", text, re.MULTILINE)[1]
    assert round(float(told["clean"].split()[1]), len(clean) - 3) == float(clean)
    (worst,) = re.findall(rf"^\| `{name}` \|((?: [\d.]+ / [\d.]+ \|){{4}})$", text, re.MULTILINE)
    for eps, cell in zip((1, 2, 4, 8), worst.split("|"), strict=False):
        aacc, miou = map(float, cell.split("/"))
        assert told[f"worst case {eps}/255"] == f"aAcc {aacc} %, mIoU {miou} %"


def test_the_same_for_programs(capsys):
    assert main(["models", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told] == [*zoo(), *PUBLISHED] == list(known_models())
    assert all(one["parameters"] == PUBLISHED[one["name"]].parameters for one in told if one["kind"] == "published")
    assert main(["models", ROBUST, "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one == next(other for other in told if other["name"] == ROBUST)
    assert one["scores"]["clean"] == {"aAcc": None, "mIoU": 38.82}


def test_a_slip_of_the_pen(capsys):
    assert main(["models", "pirat-upernet-convnext-t-vok"]) == 2
    assert "unknown model 'pirat-upernet-convnext-t-vok'; did you mean pirat-upernet-convnext-t-voc" in (
        capsys.readouterr().err
    )
