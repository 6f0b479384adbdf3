"""Common corruptions (Hendrycks and Dietterich, 2019): means over their types, and what is lost of the clean score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segrobust.analysis.metrics import Scores, finite
from segrobust.core.rows import CLEAN, CORRUPTION

MEAN = "mean"


def corruption_means(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A record called ``mean`` per severity, over the types measured at it, and one without severity over all.

    They have the averages of aAcc, mAcc and mIoU (null where one of them is), and how many ``types`` were averaged.
    """
    measured = [record for record in records if record["study"] == CORRUPTION]
    severities = sorted({record["severity"] for record in measured})
    groups = [(one, [record for record in measured if record["severity"] == one]) for one in severities]
    return [_mean(severity, members) for severity, members in [*groups, (None, measured)] if members]


def _mean(severity: int | None, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        **{name: records[0][name] for name in ("study", "norm", "eps", "surrogate", "images")},
        "name": MEAN,
        "severity": severity,
        "types": len({record["name"] for record in records}),
        **{name: finite(np.mean([_number(record[name]) for record in records])) for name in Scores._fields},
    }


def add_degradation(records: Sequence[dict[str, Any]]) -> None:
    """Give every corruption and mean ``degradation``, ``{"points": {"aAcc", "mIoU"}, "relative": {...}}``.

    points: clean minus corrupted score. relative: the same in percent of the clean score. Null without a number, no
    field in a run without clean images.
    """
    clean = next((record for record in records if record["study"] == CLEAN), None)
    for record in records if clean else ():
        if record["study"] == CORRUPTION:
            record["degradation"] = {"points": {}, "relative": {}}
            for name in ("aAcc", "mIoU"):
                lost = _number(clean[name]) - _number(record[name])
                record["degradation"]["points"][name] = finite(lost)
                record["degradation"]["relative"][name] = finite(100 * lost / (_number(clean[name]) or np.nan))


def _number(value: float | None) -> float:
    return np.nan if value is None else value
