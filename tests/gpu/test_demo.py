"""The whole chain on a GPU, shortened: two trainings, two evaluations with their checks, one report."""

from __future__ import annotations

import json

import pytest

from segrobust.checks.verdicts import NOT_TRUSTWORTHY, VERIFIED, WITH_WARNINGS
from segrobust.cli import main
from segrobust.commands import demo
from segrobust.report.trust import load_trust
from tests.commands.test_demo import SMALL

ITERATIONS = {"standard": 200, "robust": 120}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The work dir of ``segrobust demo`` with fewer iterations, scenes, radii and steps."""
    root = tmp_path_factory.mktemp("demo")
    (root / "configs").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, iterations in ITERATIONS.items():
            base = str(demo.CONFIGS / f"demo_{name}.py")
            text = SMALL.format(base=base, iterations=iterations, interval=iterations)
            (root / "configs" / f"demo_{name}.py").write_text(text)
        patch.setattr(demo, "CONFIGS", root / "configs")
        patch.setattr(demo, "SCENES", {"train": 96, "val": 4, "test": 16, "size": (64, 96)})
        patch.setattr(demo, "RADII", ("2/255", "4/255"))
        patch.setattr(demo, "STEPS", 10)
        assert main(["demo", "--work-dir", str(root / "work")]) == 0
    return root / "work"


@pytest.mark.parametrize("name", ITERATIONS)
def test_the_demos_models_can_be_believed(folder, name):
    trust = load_trust(folder / f"evaluation-{name}")
    assert trust.level in (VERIFIED, WITH_WARNINGS), trust.sentence
    assert trust.level != NOT_TRUSTWORTHY and not trust.failed
    verdicts = {check["name"]: check["verdict"] for check in trust.checks}
    assert verdicts["void ignored"] == verdicts["full precision"] == verdicts["deterministic forward"] == "pass"


def test_the_demos_report_compares_them(folder):
    page = (folder / "report.html").read_text()
    assert "standard" in page and "robust" in page
    summaries = [json.loads((folder / f"evaluation-{name}" / "summary.json").read_text()) for name in ITERATIONS]
    for summary in summaries:
        assert {record["name"] for record in summary} == {"clean", "CEPGD", "TsallisPGD", "UniformNoise", "worst_case"}
        assert all(record["images"] == 16 for record in summary)
    attacked = [min(one["aAcc"] for one in summary if one["name"] == "TsallisPGD") for summary in summaries]
    assert attacked[1] > attacked[0]  # training under attack helps
