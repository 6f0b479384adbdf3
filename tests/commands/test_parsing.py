"""Options: what they accept, and that values from the command line are data, never code."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

import segrobust
from segrobust.cli import build_parser, main
from segrobust.commands.catalogue import in_catalogue
from segrobust.commands.inputs import Inputs
from segrobust.commands.parsing import cfg_option, options_from, parse_cfg_options
from segrobust.core.errors import UserError
from segrobust.core.precision_names import HALF, PRECISIONS
from segrobust.core.threats import THREATS
from segrobust.models.precision import DTYPES
from segrobust.models.shipped import zoo
from segrobust.runs.settings import DEFAULT_ATTACKS, NORMS, Settings

NAME = next(iter(zoo()))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-2.5e-3", -0.0025),
        ("8/255", "8/255"),
        ("true", True),
        ("False", False),
        ("None", None),
        ("'7'", 7),
        ("1,2,3", [1, 2, 3]),
        ("[1, 2]", [1, 2]),
        ("[a,b]", ["a", "b"]),
        ("(1,2)", (1, 2)),
        ("[(1,2),(3,4)]", [(1, 2), (3, 4)]),
        ("[]", []),
        ("/data/x,y", ["/data/x", "y"]),
        ("a=b", "a=b"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("", ""),
    ],
)
def test_values_as_mmengine_reads_them(text, value):
    found = parse_cfg_options([cfg_option(f"a.b={text}"), "c=x"])
    assert found == {"a.b": value, "c": "x"} and type(found["a.b"]) is type(value)


@pytest.mark.parametrize("text", ["a.b=/data/my sets", "a.b=[x,my sets]", "a.b", "=1", "a b=1"])
def test_what_mmengine_would_read_as_something_else_is_refused(text):
    with pytest.raises(UserError, match=r"expected key=value|takes no space within a value"):
        cfg_option(text)


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_refused_in_one_line(text):
    try:
        parse_cfg_options([cfg_option(f"a={text}")])
    except UserError as error:
        assert "a=" in str(error)


def parsed(*words: str) -> tuple[Inputs, Settings]:
    options = build_parser().parse_args(["evaluate", NAME, *words])
    return options_from(Inputs, options), options_from(Settings, options)


def test_lists_and_options_of_evaluate():
    inputs, settings = parsed(
        *"--attack cepgd segpgd:published --eps 0.5/255 4/255 --norm L2 --steps 7 --num-images 3 --batch-size 2 "
        "--seed 5 --fresh --amp --save-adversarial --no-pictures --trust-checkpoint --import x.py y "
        "--cfg-options a.b=1 c=x --corruptions fog noise --severity 1 3 --universal perturbation patch(k=3) "
        "--cfg-options d=2".split()
    )
    assert (settings.attacks, settings.eps) == (("cepgd", "segpgd:published"), ("0.5/255", "4/255"))
    assert (settings.norm, settings.steps, settings.batch_size, settings.seed) == ("L2", 7, 2, 5)
    assert settings.fresh and settings.precision == "bf16" and settings.save_adversarial and not settings.pictures
    assert settings.corruptions == ("gaussian_noise", "shot_noise", "impulse_noise", "fog")
    assert (settings.severity, settings.universal) == ((1, 3), ("perturbation", "patch(k=3)"))
    assert (inputs.num_images, inputs.trust_checkpoint, inputs.imports) == (3, True, ("x.py", "y"))
    assert parse_cfg_options(inputs.cfg_options) == {"a.b": 1, "c": "x", "d": 2}


def test_forms_of_the_attacked_model():
    short = [parsed(*more)[1].precision for more in ([], ["--amp"], ["--amp", "bf16"], ["--amp", "fp16"])]
    assert short == ["float32", "bf16", "bf16", "fp16"]
    assert [parsed("--precision", name)[1].precision for name in PRECISIONS] == list(PRECISIONS)
    assert parsed("--precision", "fp16", "--amp", "fp16")[1].precision == "fp16"
    for words in (["--precision", "float32", "--amp"], ["--precision", "fp16", "--amp", "bf16"]):
        told = f"amp: bf16 is short for precision bf16, and precision is {words[1]}; give one of them"
        with pytest.raises(UserError, match=told):
            parsed(*words)
    sizes = [parsed(*more)[1].batch_size for more in ([], ["--batch-size", "auto"], ["--batch-size", "9"])]
    assert sizes == [4, "auto", 9]


def test_defaults_of_evaluate():
    inputs, settings = parsed()
    assert vars(settings) == vars(Settings())
    assert (settings.attacks, settings.eps) == (("TsallisPGD", "SegPGD", "CosPGD"), ("4/255",))
    assert (settings.steps, inputs.num_images, inputs.checkpoint) == (None, None, None)
    assert not (settings.fresh or settings.amp or settings.save_adversarial or inputs.trust_checkpoint)
    assert settings.precision == "float32"
    assert settings.pictures and str(inputs.work_dir) == f"work_dirs/{NAME}/evaluation"


def test_attacks_that_nobody_asked_for_do_not_run_beside_another_study():
    for words in (["--corruptions", "all"], ["--universal", "patch"]):
        assert parsed(*words)[1].attacks == () and parsed(*words, "--attack", "fgsm")[1].attacks == ("fgsm",)
    assert Settings(corruptions="all", attacks=["FGSM"]).attacks == ("FGSM",)
    assert len(Settings(corruptions=["all", "fog"]).corruptions) == 15 and Settings(corruptions="all").severity == (
        1, 2, 3, 4, 5
    )  # fmt: skip


def test_the_identity_holds_what_decides_rows_and_nothing_else():
    usual = {"batch_size": 4, "seed": 0, "precision": "float32"}
    assert Settings().identity() == usual
    told = Settings(seed=1, eot=3, amp=True, metric_size="original", batch_size=2).identity()
    assert told == {"batch_size": 2, "seed": 1, "precision": "bf16", "metric_size": "original", "eot": 3}
    assert parsed("--no-deterministic")[1].identity() == {**usual, "deterministic": False}
    same = {"checks": False, "pictures": False, "save_adversarial": True, "fresh": True, "accept_different": "CODE",
            "attacks": "FGSM", "eps": 0.1, "steps": 3, "norm": "L2", "corruptions": "fog"}  # fmt: skip
    assert Settings(**same).identity() == usual


def test_python_and_the_command_line_have_the_same_options():
    shown, told = inspect.signature(segrobust.evaluate).parameters, inspect.getdoc(segrobust.evaluate)
    for field in dataclasses.fields(Settings):
        if field.name not in ("attacks", "eps"):  # which stand first, without their names
            assert shown[field.name].default is field.default
            assert f"{field.name}: {field.metadata['option'].help}" in told


def test_words_that_are_known_without_torch_are_those_of_what_they_name():
    assert tuple(THREATS) == NORMS and tuple(DTYPES) == HALF
    assert all(in_catalogue(name) for name in DEFAULT_ATTACKS)


@pytest.mark.parametrize(
    "command",
    ["", "demo", "train", "evaluate", "report", "attacks", "models", "checkpoint", "checkpoint inspect",
     "checkpoint convert", "targets"],
)  # fmt: skip
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([*command.split(), "--help"])
    assert left.value.code == 0
    assert f"\n  segrobust {command}".rstrip() in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == "segrobust 0.1.0\n"
