"""Attacks as text: what is read, and that nothing else is, whatever comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segrobust.core.attack_specs import parse_spec
from segrobust.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tsallis-pgd", {"type": "tsallis-pgd"}),
        (" cospgd : published ", {"type": "cospgd", "preset": "published"}),
        ("cepgd()", {"type": "cepgd"}),
        ("cospgd:published(steps=50)", {"type": "cospgd", "preset": "published", "steps": 50}),
        ("tsallis-pgd(norm=L2, q_start=-3)", {"type": "tsallis-pgd", "norm": "L2", "q_start": -3}),
        ("cepgd(eps=8/255,halves_first=false)", {"type": "cepgd", "eps": "8/255", "halves_first": False}),
        ("cepgd(step_size=None, track='error')", {"type": "cepgd", "step_size": None, "track": "error"}),
        ("fmn(radii=[1/255, 2/255], x=(1, 2.5))", {"type": "fmn", "radii": ["1/255", "2/255"], "x": (1, 2.5)}),
        ('cepgd(track="a, b) = c", steps=3)', {"type": "cepgd", "track": "a, b) = c", "steps": 3}),
        ("sea(losses=[cospgd(steps=3), jspgd])", {"type": "sea", "losses": ["cospgd(steps=3)", "jspgd"]}),
        ("cepgd(eps=a=b)", {"type": "cepgd", "eps": "a=b"}),
    ],
)
def test_what_is_read(text, expected):
    assert parse_spec(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cepgd(", "do not match"),
        ("cepgd(steps=3", "do not match"),
        ("cepgd(steps=3))", "do not match"),
        ("cepgd(steps=3), fgsm(eps=1)", "do not match"),
        ("cepgd(a='x)", "do not match"),
        ("cepgd(steps=3) more", "do not match"),
        ("(steps=3)", "do not match"),
        ("cepgd(a=[1, 2)", "do not match"),
        ("cepgd(50)", "'50' is not field=value"),
        ("cepgd(steps=)", "'steps=' is not field=value"),
        ("cepgd(steps=3,)", "'' is not field=value"),
        ("cepgd(**fields)", "is not field=value"),
        ("cepgd(a.b=3)", "is not field=value"),
        ("cepgd(steps=3, steps=4)", "steps stands there twice"),
        ("cepgd(type=FGSM)", "type stands there twice"),
        ("cepgd:published(preset=x)", "preset stands there twice"),
        ("cepgd(a=" + "[" * 5000 + "]" * 5000 + ")", "at most 2000 characters, got 10009"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text, why):
    with pytest.raises(UserError) as error:
        parse_spec(text)
    assert why in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize(
    "value",
    [
        "__import__('os').abort()",
        "exit()",
        "lambda: 0",
        "[x for x in (1,)]",
        "{}.__class__",
        "open('x', 'w')",
        "f'{1/0}'",
    ],
)
def test_code_is_text(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = parse_spec(f"cepgd(track={value})")["track"]
    assert found == value or found == [value.strip("[]")]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["[" * 900 + "]" * 900, "-" * 1900 + "1", "9" * 1900, "{" * 1900, "1" + "+1" * 900])
def test_deep_and_long_values_do_no_harm(value):
    text = f"cepgd(steps={value})"
    if value.count("{"):
        with pytest.raises(UserError, match="do not match"):
            parse_spec(text)
    else:
        assert parse_spec(text).keys() == {"type", "steps"}


@given(st.text(alphabet="aA1_-:()[]{}'\"=,./ \\\n\0", max_size=40))
def test_anything_is_read_or_refused(text):
    try:
        found = parse_spec(text)
    except UserError:
        return
    assert isinstance(found["type"], str) and all(isinstance(name, str) for name in found)
