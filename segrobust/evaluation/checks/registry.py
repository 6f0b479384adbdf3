"""All checks, by number. To add one, write a function beside its kin and a line in that file's ``CHECKS``."""

from __future__ import annotations

from segrobust.evaluation.checks import blind, contract, gradient, integrity, provenance, results, sanity, strength
from segrobust.evaluation.checks.base import Check

_THEMES = (blind, contract, gradient, integrity, provenance, results, sanity, strength)
CHECKS: tuple[Check, ...] = tuple(
    sorted((check for theme in _THEMES for check in theme.CHECKS), key=lambda check: check.number)
)
