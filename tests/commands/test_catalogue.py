"""The catalogue of attacks: the same as the classes, and read without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from segrobust.attacks import ATTACKS, build_attack, register_attack
from segrobust.attacks.bounded import FGSM
from segrobust.cli import main
from segrobust.commands.catalogue import FILE, catalogue, written
from segrobust.core.registry import dashed

ANEW = "write it anew: python -m segrobust.commands.catalogue"
WITHOUT_TORCH = """
import sys
from segrobust.cli import main
status = main(sys.argv[1:])
assert not {"torch", "mmengine", "numpy"} & sys.modules.keys(), "heavy imports"
sys.exit(status)
"""


def test_it_holds_what_the_classes_say():
    assert FILE.read_text(encoding="utf-8") == written(), ANEW
    ours = [name for name, cls in ATTACKS.items() if cls.__module__.startswith("segrobust.")]
    assert sorted(catalogue().keys() & set(ours)) == sorted(ours) and len(ours) >= 26


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["attacks"], 0, "tsallis"),
        (["attacks", "tsallis-pgd"], 0, "q_start: -2.0"),
        (["attacks", "tsalis"], 2, "unknown attack 'tsalis'; did you mean tsallis-pgd?"),
        (["models"], 0, "pirat-segmenter-vit-s-ade20k"),
        (["models", "MODEL"], 0, "parameters: 2,013,259"),
        (["models", "--json"], 0, '"name": "ddcat-deeplabv3-50-voc-sat"'),
        (["models", "pirat"], 2, "unknown model 'pirat'"),
        (
            ["checkpoint", "inspect", __file__, "--model", "pirat-segmentr-vit-s-ade20k"],
            2,
            "did you mean the published",
        ),
        (["evaluate", "MODEL", "--attack", "cepgd", "tsalis"], 2, "unknown attack 'tsalis'; did you mean tsallis-pgd?"),
        (["evaluate", "MODEL", "--attack", "tsallis-pgd(q_strt=1)"], 2, "did you mean q_start"),
        (["evaluate", "MODEL", "--attack", "tsallis-pgd(q_start=1"], 2, "its brackets and quotes do not match"),
    ],
)
def test_torch_is_not_imported_for_a_list_or_a_slip(arguments, status, told):
    model = "camvid-fpn-r18w24-std-180x240"
    command = [sys.executable, "-c", WITHOUT_TORCH, *(model if one == "MODEL" else one for one in arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status and told in done.stdout + done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def mine():
    @register_attack
    class HalfStep(FGSM):
        share: float = 0.5

    yield HalfStep
    del ATTACKS["HalfStep"]


def test_a_users_attack_is_listed_and_does_not_enter_the_file(mine, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["attacks"]) == 0 and " half-step " in capsys.readouterr().out
    assert main(["attacks", "half-step"]) == 0 and "share: 0.5\n" in capsys.readouterr().out
    assert FILE.read_text(encoding="utf-8") == written()


@pytest.mark.parametrize("name", ["UniformNoise", "Standard", "MinNormEnsemble"])
def test_what_can_be_set_is_listed_with_its_default(name, capsys):
    assert main(["attacks", dashed(name)]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines.keys() == build_attack(name).fields().keys() - {"type"}
    if name == "Standard":
        assert lines["steps"] == "450" and lines["class_counts"] == "none" and lines["targeted"] == "false"
        assert lines["attacks"].startswith("sharp-pgd, ")
