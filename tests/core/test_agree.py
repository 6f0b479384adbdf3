"""An error of one process as that of all: who raises what, and which errors all may catch."""

from __future__ import annotations

import pytest

from segrobust.core import agree as module
from segrobust.core.agree import agree, is_of_all, of_all
from segrobust.core.errors import UserError


@pytest.fixture
def others(monkeypatch):
    """Lets another process of two say something in every exchange; gives what this one said."""

    def saying(text: str) -> list[str]:
        said = []
        monkeypatch.setattr(module, "exchange", lambda own: said.append(own) or [text, own])
        monkeypatch.setenv("WORLD_SIZE", "2")
        return said

    return saying


def failing():
    raise UserError("mine: x")


def test_what_the_work_gives_where_nobody_fails(others):
    said = others("")
    assert agree(lambda: 7) == 7 and said == [""]
    others("")
    with pytest.raises(ValueError, match="mine"):
        agree(failing)


def test_what_another_process_failed_with_is_raised_here(others):
    others("error: its: y")
    for work, text in ((lambda: 7, "its: y"), (failing, "mine: x")):
        with pytest.raises(UserError) as caught:
            agree(work)
        assert str(caught.value) == text and is_of_all(caught.value)


def test_an_error_without_a_word_is_one_too(others):
    said = others("")
    with pytest.raises(UserError):
        agree(lambda: (_ for _ in ()).throw(UserError("")))
    assert said == ["error: "]


def test_only_what_all_have_may_be_caught_where_there_are_several(monkeypatch):
    error = UserError("x")
    for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"):
        assert is_of_all(error)
        monkeypatch.setenv(name, "2")
        assert not is_of_all(error)
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_of_all(of_all(error))
