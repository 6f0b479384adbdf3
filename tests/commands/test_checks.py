"""The trust checks of ``segrobust evaluate``: exit status, what is printed, and what is stored."""

from __future__ import annotations

import json

import pytest

from segrobust.cli import main
from segrobust.models.segmenter import Segmenter


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def stored(folder):
    return json.loads((folder / "checks.json").read_text())


def test_results_that_cannot_be_trusted_end_with_status_1(world, tmp_path, wide, capsys):
    """The tiny world's weights are random: hardly anything moves its predictions, however large the radius."""
    assert main(world.evaluate(tmp_path / "run", checks=True)) == 1
    out, err = capsys.readouterr()
    content = stored(tmp_path / "run")
    assert content["trust"] == "not trustworthy"
    assert "segrobust: the results are not trustworthy: " in err.splitlines()[-1]
    assert "a large radius breaks everything" in err.splitlines()[-1]
    lines = out.splitlines()
    assert lines[1].startswith("trust: not trustworthy (failed: ")
    assert all(check["name"] in out for check in content["checks"])
    found = {check["name"]: check for check in content["checks"]}
    provenance = found["provenance complete, files unchanged"]
    assert (found["every image once"]["verdict"], provenance["verdict"]) == ("pass", "pass")
    assert "checkpoint_sha256" in provenance["evidence"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.index("not trustworthy") < page.index("Worst case over all attacks")


def test_a_score_the_config_declares_is_compared(world, tmp_path, capsys):
    config = tmp_path / "declared.py"
    config.write_text(world.config.read_text() + "\ndeclared = dict(mIoU=99.0, images=4)\n")
    assert main(world.evaluate(tmp_path / "run", config=config, checks=True)) == 1
    (clean,) = (one for one in stored(tmp_path / "run")["checks"] if one["name"] == "clean score as declared")
    assert (clean["verdict"], clean["numbers"]["declared"]) == ("fail", 99)
    config.write_text(world.config.read_text() + "\ndeclared = 99.0\n")
    assert main(world.evaluate(tmp_path / "other", config=config)) == 2
    assert "declared: expected dict(mIoU=PERCENT, images=NUMBER)" in capsys.readouterr().err


def test_no_checks_leaves_no_verdict_and_says_so(world, tmp_path, wide, capsys):
    assert main(world.evaluate(tmp_path / "run")) == 0
    assert not (tmp_path / "run" / "checks.json").exists()
    assert "trust: unknown, no checks were made" in capsys.readouterr().out
    assert "not checked" in (tmp_path / "run" / "report.html").read_text()


def test_a_model_that_cannot_be_attacked_ends_with_status_1_and_its_verdict(world, tmp_path, wide, monkeypatch, capsys):
    forward = Segmenter.forward
    monkeypatch.setattr(Segmenter, "forward", lambda self, images: forward(self, images).detach())
    assert main(world.evaluate(tmp_path / "run", checks=True)) == 1
    out, err = capsys.readouterr()
    assert "segrobust: the run failed: the logits do not depend on the images" in err.splitlines()[-1]
    assert "Traceback" not in err and "gradient usable" in out and "trust: not trustworthy" in out
    assert stored(tmp_path / "run")["failed"].startswith("the logits do not depend")
