"""How the error of an attack's best points grew with its passes, for tables and figures of convergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from segrobust.attacks.gradient import History

MOST_POINTS = 25
_DIGITS = 6


@dataclass(frozen=True)
class ErrorTrace:
    """Share of an image's judged pixels at the goal, at its best points so far, after each gradient of a call.

    The errors stay on the device until they are asked for.
    """

    history: History

    def per_image(self) -> list[list[list[float]]]:
        """Per image ``[[backwards, error], ...]``: at most ``MOST_POINTS``, evenly spaced, the last one among them.

        Of points within the attack's radius alone; no error is below the one before it, and an image that was never
        searched has none. Waits for the device.
        """
        traces: list[list[list[float]]] = [[] for _ in range(self.history.images)]
        entries = self.history.errors
        if not entries:
            return traces
        errors = iter(torch.cat([entry.error for entry in entries]).tolist())
        everyone = [*range(self.history.images)]
        images = [everyone if one.rows is None else one.rows.tolist() for one in self.history.passes]
        takes_part = np.zeros((len(images), len(everyone)), dtype=np.int64)
        for row, members in zip(takes_part, images, strict=True):
            row[members] = 1
        for entry in entries:
            spent = (np.array(entry.backwards) @ takes_part[: len(entry.backwards)]).tolist()
            for image in images[entry.engine]:
                _append(traces[image], spent[image], next(errors))
        return [_thinned(trace) for trace in traces]


def _append(trace: list[list[float]], backwards: int, error: float) -> None:
    highest = max(round(error, _DIGITS), trace[-1][1] if trace else 0.0)
    if trace and trace[-1][0] == backwards:
        trace.pop()
    trace.append([backwards, highest])


def _thinned(trace: Sequence[list[float]]) -> list[list[float]]:
    if len(trace) <= MOST_POINTS:
        return list(trace)
    return [trace[n] for n in np.linspace(0, len(trace) - 1, MOST_POINTS).round().astype(int)]
