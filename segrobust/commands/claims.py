"""What is said of a model on a leaderboard: its authors' scores, its paper, the command that trained it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segrobust.commands.models import known_models
from segrobust.core.errors import UserError
from segrobust.core.files import read_json
from segrobust.core.units import parse_eps
from segrobust.leaderboard.evidence import public

CLEAN = "clean"
_RADIUS = re.compile(r"^(.*?)\s*(\d+(?:\.\d*)?/\d+|\d*\.\d+)$")


def told_of(config: str, given: Mapping[str, Any], benchmark: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """By the names of an entry's ``told``; what is given on the command line wins, then a benchmark's words.

    Args:
        config: as ``run.json`` names it; of a model in ``segrobust models`` its facts are known.
        benchmark: the model in ``benchmark.json``.
    """
    told: dict[str, Any] = {}
    if known := known_models().get(config):
        told = {"paper": known.source, "architecture": known.network, "parameters": known.parameters,
                "training": known.training, "claimed_from": known.scores_from or None}  # fmt: skip
        told |= _claims(known.scores, "scores")
    if benchmark:
        words = {"paper": "paper", "training": "recipe", "training_command": "command"}
        told |= {name: public(benchmark[key]) for name, key in words.items() if isinstance(benchmark.get(key), str)}
    return told | {name: value for name, value in given.items() if value is not None}


def claimed(words: Sequence[str]) -> dict[str, Any]:
    """Claims as they are typed: ``clean=75.2``, ``4/255=64.9`` or ``4/255=64.9,88.6`` (mIoU, aAcc), or a JSON file
    ``{"clean": 75.2, "4/255": {"mIoU": 64.9, "aAcc": 88.6}}``.

    Raises:
        UserError: neither, or a score that is no percentage.
    """
    found: dict[str, Any] = {}
    for word in words:
        if "=" not in word:
            content = read_json(Path(word)) if Path(word).is_file() else None
            if not isinstance(content, Mapping):
                raise UserError(f"--claimed: expected RADIUS=mIoU or a JSON file of a table, got {word!r}")
            found |= content
        else:
            radius, _, scores = word.partition("=")
            found[radius] = scores.split(",")
    return _claims(found, "--claimed") if found else {}


def _claims(scores: Mapping[str, Any], what: str) -> dict[str, Any]:
    """``claimed`` and ``claimed_clean`` of an entry: of several claims at one radius the lowest."""
    clean, found = None, {}
    for name, score in scores.items():
        miou, aacc = _score(score, f"{what}: {name}")
        match = _RADIUS.match(name)
        if name == CLEAN:
            clean = miou
        elif not match:
            raise UserError(f"{what}: expected {CLEAN} or a radius such as 4/255, got {name!r}")
        else:
            eps = parse_eps(match[2], norm="", name=what)
            one = {"eps": eps, "mIoU": miou, "aAcc": aacc, "attack": match[1] or None}
            found[eps] = min(found.get(eps, one), one, key=lambda claim: claim["mIoU"])
    return {"claimed": [found[eps] for eps in sorted(found)], "claimed_clean": clean}


def _score(score: Any, what: str) -> tuple[float, float | None]:
    """mIoU and, where it is told, aAcc."""
    if isinstance(score, Mapping):
        given = [score.get("mIoU"), score.get("aAcc")]
    else:
        given = [*score, None][:2] if isinstance(score, list) and score else [score, None]
    try:
        numbers = [None if one is None else float(one) for one in given]
    except (TypeError, ValueError):
        numbers = [None, None]
    if numbers[0] is None or not all(0 <= one <= 100 for one in numbers if one is not None):
        raise UserError(f"{what}: expected mIoU, and aAcc after it, in percent, got {score!r}")
    return numbers[0], numbers[1]
