"""Registries: one class per name, however it is spelt."""

from __future__ import annotations

import pytest

from segrobust.core.errors import UserError
from segrobust.core.registry import Registry, dashed


class TsallisPGD:
    pass


class SEA:
    pass


@pytest.fixture
def registry():
    found = Registry("attack", "or write one")
    for cls in (TsallisPGD, SEA):
        assert found.add(cls) is cls
    return found


@pytest.mark.parametrize("name", ["TsallisPGD", "tsallis-pgd", "tsallis_pgd", " Tsallis PGD", "TSALLISPGD"])
def test_case_dashes_and_spaces_do_not_matter(registry, name):
    assert registry.find(name) is TsallisPGD


def test_an_unknown_name_is_told_with_the_nearest_and_what_else_to_do(registry):
    with pytest.raises(UserError, match=r"^unknown attack 'tsalis'; did you mean tsallis-pgd\? \(or write one\)$"):
        registry.find("tsalis")
    with pytest.raises(UserError, match=r"^unknown attack 'qq'; known: sea, tsallis-pgd \(or write one\)$"):
        registry.find("qq")
    with pytest.raises(UserError, match=r"^unknown attack ''"):
        registry.find("")


def test_a_name_is_not_taken_twice_but_a_module_may_be_read_anew(registry):
    for name in ("SEA", "Sea", "S_E_A"):
        with pytest.raises(UserError, match="there is an attack SEA already"):
            registry.add(type(name, (), {"__module__": "of_another"}))
    again = type("SEA", (), {"__module__": SEA.__module__, "__qualname__": SEA.__qualname__})
    registry.add(again)
    assert registry.find("sea") is again and len(registry) == 2


def test_the_command_lines_spelling():
    assert list(map(dashed, ("TsallisPGD", "SEA", "MinNormEnsemble"))) == ["tsallis-pgd", "sea", "min-norm-ensemble"]
