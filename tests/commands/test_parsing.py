"""Options: what they accept, and that values from the command line are data, never code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segrobust.cli import build_parser, main
from segrobust.commands.parsing import parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-2.5e-3", -0.0025),
        ("8/255", "8/255"),
        ("true", True),
        ("False", False),
        ("None", None),
        ("plain text", "plain text"),
        ("'7'", "7"),
        ("1,2,3", [1, 2, 3]),
        ("[1,2]", [1, 2]),
        ("[a,b]", ["a", "b"]),
        ("(1,2)", (1, 2)),
        ("[(1,2),(3,4)]", [(1, 2), (3, 4)]),
        ("[]", []),
        ("{'a': 1}", {"a": 1}),
        ("/data/x,y", ["/data/x", "y"]),
        ("'a,b'", "a,b"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("", ""),
    ],
)
def test_values(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@given(
    st.recursive(
        st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False),
        st.lists,
        max_leaves=8,
    )
)
def test_any_literal_comes_back(value):
    assert parse_value(repr(value)) == value


@given(st.text(max_size=30))
def test_any_text_is_a_value(text):
    parse_value(text)


def test_lists_and_options_of_evaluate():
    options = build_parser().parse_args(
        "evaluate c.py --attack cepgd segpgd:published --eps 0.5/255 4/255 --steps 7 --num-images 3 --batch-size 2 "
        "--seed 5 --fresh --amp --save-adversarial --no-pictures --trust-checkpoint --cfg-options a.b=1 c=x".split()
    )
    assert (options.attack, options.eps) == (["cepgd", "segpgd:published"], ["0.5/255", "4/255"])
    assert (options.steps, options.num_images, options.batch_size, options.seed) == (7, 3, 2, 5)
    assert options.fresh and options.amp and options.save_adversarial and options.trust_checkpoint
    assert options.no_pictures
    assert dict(options.cfg_options) == {"a.b": 1, "c": "x"}


def test_forms_of_the_attacked_model():
    def parsed(*more):
        return build_parser().parse_args(["evaluate", "c.py", *more])

    assert [parsed(*more).amp for more in ([], ["--amp"], ["--amp", "bf16"], ["--amp", "fp16"])] == [
        False, "bf16", "bf16", "fp16"
    ]  # fmt: skip
    assert [parsed(*more).channels_last for more in ([], ["--channels-last"], ["--no-channels-last"])] == [
        True, True, False
    ]  # fmt: skip
    assert [parsed(*more).batch_size for more in ([], ["--batch-size", "auto"], ["--batch-size", "9"])] == [
        4,
        "auto",
        9,
    ]


def test_defaults_of_evaluate():
    options = build_parser().parse_args(["evaluate", "c.py"])
    assert (options.attack, options.eps) == (["tsallis-pgd", "segpgd", "cospgd"], ["4/255"])
    assert (options.steps, options.num_images, options.checkpoint, options.work_dir) == (None, None, None, None)
    assert not (options.fresh or options.amp or options.save_adversarial or options.trust_checkpoint)
    assert not options.no_pictures


@pytest.mark.parametrize(
    "command",
    ["", "demo", "train", "evaluate", "report", "attacks", "models", "checkpoint", "checkpoint inspect",
     "checkpoint convert"],
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
