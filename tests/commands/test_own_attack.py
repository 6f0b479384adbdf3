"""An attack of the user's own by name on the command line: the config's modules are read first, and only then."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import segrobust.models.mm
from segrobust.attacks import ATTACKS
from segrobust.cli import main
from segrobust.models.shipped import zoo
from segrobust.runs.folder import RunFolder

MODULE = """
from segrobust import register_attack
from segrobust.attacks.bounded import FGSM

@register_attack
class HalfStep(FGSM):
    share: float = 0.5
"""
IMPORTS = '\ncustom_imports = dict(imports=["a_module_of_mine"], allow_failed_imports=False)\n'


@pytest.fixture
def mine(world, in_tmp, monkeypatch) -> Path:
    """A config in the current folder, which Python does not look into by itself, with the attack's module beside."""
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    Path("a_module_of_mine.py").write_text(MODULE)
    config = in_tmp / "mine.py"
    config.write_text(world.config.read_text() + IMPORTS)
    yield config
    sys.modules.pop("a_module_of_mine", None)
    ATTACKS.pop("HalfStep", None)


def test_it_is_found_and_runs(world, mine, tmp_path):
    assert main(world.evaluate(tmp_path / "run", "--attack", "half-step", "fgsm", "--no-pictures", config=mine)) == 0
    clean, fgsm, mine = RunFolder(tmp_path / "run").conditions()
    assert (mine.name, mine.fields["share"]) == ("HalfStep", 0.5) and (clean.name, fgsm.name) == ("clean", "FGSM")
    assert sys.path[-1] == str(tmp_path)  # last, so that nothing here hides a module of Python's


def test_a_config_that_inherits_from_it_finds_it_too(world, mine, tmp_path, monkeypatch):
    monkeypatch.setattr("segrobust.commands.evaluate.evaluate_command", lambda *_: None)
    Path("child.py").write_text('_base_ = ["mine.py"]\n')
    assert main(world.evaluate(tmp_path / "run", "--attack", "HalfStep", config=Path("child.py"))) == 0


def test_what_its_module_does_not_register_is_refused(world, mine, tmp_path, capsys):
    assert main(world.evaluate(tmp_path / "run", "--attack", "half-stop", config=mine)) == 2
    told = capsys.readouterr().err
    assert "unknown attack 'half-stop'; did you mean half-step" in told
    assert "one of your own: name its file with --import, or in the config's custom_imports" in told


def test_nothing_is_read_for_a_typing_error_where_no_config_can_register(monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise AssertionError("the config was read")

    monkeypatch.setattr(segrobust.models.mm, "load_config", refuse)
    assert main(["evaluate", next(iter(zoo())), "--attack", "tsalis-pgd"]) == 2
    assert "did you mean tsallis-pgd" in capsys.readouterr().err


def test_nothing_is_read_where_all_names_are_ours(world, mine, tmp_path, monkeypatch):
    monkeypatch.setattr("segrobust.commands.evaluate.evaluate_command", lambda *_: None)
    assert main(world.evaluate(tmp_path / "run", "--attack", "cepgd:published", "cosPGD", config=mine)) == 0
    assert "a_module_of_mine" not in sys.modules


def test_a_file_of_ones_own_is_imported_and_part_of_the_identity(world, in_tmp, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "my_steps.py").write_text(MODULE)
    (in_tmp / "beside.py").write_text("from my_steps import HalfStep\n")
    own = ["--import", elsewhere / "my_steps.py", "beside", "./beside.py"]
    try:
        assert main(world.evaluate(in_tmp / "run", "--attack", "half-step", "--no-pictures", *own)) == 0
    finally:
        for name in ("my_steps", "beside"):
            sys.modules.pop(name, None)
        ATTACKS.pop("HalfStep", None)
    folder = RunFolder(in_tmp / "run")
    assert [one.name for one in folder.conditions()] == ["clean", "HalfStep"]
    assert list(folder.read_json("run.json")["identity"]["users_code"]) == ["my_steps"]


FAILING = {
    "raise RuntimeError('two\\nlines')": "RuntimeError: two",
    "import sys; sys.exit('bye')": "SystemExit: bye",
    "def broken(:": "SyntaxError",
    "import nothing_of_this_name": "No module named 'nothing_of_this_name'",
}


@pytest.mark.parametrize("text", FAILING)
def test_a_file_that_fails_is_told_in_one_line(text, in_tmp, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    Path("fails.py").write_text(text)
    assert main(["evaluate", next(iter(zoo())), "--import", "fails.py"]) == 2
    told = capsys.readouterr().err
    assert "--import fails.py: cannot be imported: " in told and FAILING[text] in told and told.count("\n") == 1


def test_a_file_with_the_name_of_another_module_is_refused(in_tmp, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    Path("json.py").write_text("")
    assert main(["evaluate", next(iter(zoo())), "--import", "json.py"]) == 2
    assert "--import json.py: Python has another module 'json'" in capsys.readouterr().err
