"""All checks, in the order in which they are made and shown.

To add one, write a function beside its kin and a line in that file's ``CHECKS``.
"""

from __future__ import annotations

from segrobust.checks import (
    attacked,
    blind,
    contract,
    gradient,
    integrity,
    plausible,
    provenance,
    results,
    sanity,
    steps,
    strength,
)  # fmt: skip
from segrobust.checks.base import Check

_THEMES = (attacked, integrity, plausible, results, contract, gradient, sanity, steps, strength, blind, provenance)
CHECKS: tuple[Check, ...] = tuple(check for theme in _THEMES for check in theme.CHECKS)
