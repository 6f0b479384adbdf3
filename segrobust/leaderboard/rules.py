"""The rules of the leaderboard: its divisions, the radii at which it ranks, and what keeps a run from being ranked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segrobust.attacks.registry import build_attack
from segrobust.checks.verdicts import VERIFIED, WITH_WARNINGS
from segrobust.core.rows import ATTACK, Condition
from segrobust.core.units import format_eps, parse_eps
from segrobust.datasets.protocols import PROTOCOLS
from segrobust.report.trust import Trust
from segrobust.studies.attack import fields_of

STANDARD, OWN = DIVISIONS = ("standard protocol", "own protocol")
RANKED_AT = {"Linf": parse_eps("4/255"), "L2": 64 / 255}  # SemSegBench's radius of L2; other norms are not ranked
RADII = tuple(parse_eps(radius) for radius in ("1/255", "2/255", "4/255", "8/255"))  # of the standard protocol
NORM = "Linf"
ATTACK_NAME = "Standard"
FEWEST_STEPS = 450
FEWEST_IMAGES = 32
SHIPPED_DATA = {"CamVidDataset": "b71ea0f32651480dda1a9fda0ce957927a447ddb5e7a1c6f3e28d3fa082d6ee7"}  # recipe: 180x240
_FREE = ("class_counts", "seed", "steps")  # fields of the attack that may differ: steps upwards

RULES = {
    "ranked by": "the lowest known robust mIoU: the worst case over all attacks and counted submissions, chosen "
    "greedily for the whole data set",
    "ranked at": {norm: format_eps(eps, norm) for norm, eps in RANKED_AT.items()},
    "ranked against": "entries of the same division, data, images and norm",
    STANDARD: f"{ATTACK_NAME} with at least {FEWEST_STEPS} steps under {NORM} at "
    f"{', '.join(format_eps(eps) for eps in RADII)}, on at least {FEWEST_IMAGES} images of a named protocol or of the "
    "shipped models' CamVid at 180x240",
    OWN: "any other attacks, radii, data or number of images",
    "never ranked": "claimed scores; rows that were sent without images; runs without trust checks, not trustworthy "
    "ones, targeted ones, and attacks that may write on a part of the image alone",
}


def missing_for_standard(identity: Mapping[str, Any], conditions: list[Condition], images: int) -> str:
    """What a run lacks for the standard division, in words; empty where it lacks nothing."""
    recipe = SHIPPED_DATA.get(str(identity.get("dataset")), "")
    if identity.get("protocol") not in PROTOCOLS and not (recipe and identity.get("data_recipe") == recipe):
        return "neither a named protocol nor the shipped models' data"
    if images < FEWEST_IMAGES:
        return f"{images} images, of at least {FEWEST_IMAGES}"
    found = {one.eps for one in conditions if _is_standard(one)}
    lacking = [format_eps(eps) for eps in RADII if eps not in found]
    return f"no {ATTACK_NAME} of {FEWEST_STEPS} steps at {', '.join(lacking)}" if lacking else ""


def _is_standard(one: Condition) -> bool:
    if (one.study, one.norm, one.surrogate, one.candidate) != (ATTACK, NORM, None, ""):
        return False
    fields = dict(one.fields)
    enough = type(fields.get("steps")) is int and fields["steps"] >= FEWEST_STEPS
    return enough and _without_counts(fields) == _without_counts(fields_of(build_attack(ATTACK_NAME)))


def _without_counts(fields: Any) -> Any:
    """An attack's fields, its members' too, without those that may differ."""
    if isinstance(fields, Mapping):
        return {name: _without_counts(value) for name, value in fields.items() if name not in _FREE}
    if isinstance(fields, list | tuple):
        return [_without_counts(one) for one in fields]
    return fields


def trusted(trust: Trust | None) -> bool:
    """Whether trust checks were made and say that results can be believed."""
    return trust is not None and trust.level in (VERIFIED, WITH_WARNINGS)


def not_ranked(identity: Mapping[str, Any], trust: Trust | None, radii: list[float], norm: str) -> str:
    """Why a run's scores are listed without a rank; empty where they get one."""
    if norm not in RANKED_AT:
        return f"no radius of {norm} is ranked"
    if trust is None:
        return "no trust checks were made"
    if not trusted(trust):
        return f"the run is {trust.sentence}"
    if identity.get("target"):
        return "its attacks were targeted"
    if identity.get("mask_sha256"):
        return "its attacks could write on a part of the image alone"
    if RANKED_AT[norm] not in radii:
        return f"no result at {format_eps(RANKED_AT[norm], norm)}"
    return ""
