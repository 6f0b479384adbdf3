"""Was anything attacked at all? Read from the rows: how far the attacks moved the images."""

from __future__ import annotations

import math

from segrobust.checks.base import FAIL, PASS, WARN, Check, Skip, Verdict, verdict
from segrobust.checks.context import Context
from segrobust.core.threats import allowed

MATTERS = {"Linf": 0.1 / 255, "L2": 1 / 255, "L1": 1 / 255}  # L2 and L1: one value of one pixel by one 8-bit level


def something_attacked(context: Context) -> Verdict:
    """Every attack that tries has moved an image by what can matter."""
    if not context.attempts:
        others = ", ".join(job.label for job in context.jobs if job.attack) or "nothing"
        text = f"nothing was attacked: beside the clean images the run has {others}, and no attack that tries"
        return verdict(WARN, text, "add an attack, such as --attack tsallis-pgd", moved={})
    judged = {image for shares in context.shares.values() for image in shares}
    if not judged:
        raise Skip("no image of the run has a labelled pixel: nothing was measured")
    moved = dict.fromkeys(context.attempts, 0.0)
    for row in context.rows:
        if row["attack"] in moved and row["image"] in judged:
            moved[row["attack"]] = max(moved[row["attack"]], row["distance"])
    norms = {name: context.attempts[name].attack.norm for name in moved}
    idle = [name for name in moved if moved[name] < MATTERS[norms[name]]]
    told = ", ".join(f"{name} by {_length(moved[name], norms[name])}" for name in idle or moved)
    if not idle:
        return verdict(PASS, f"farthest that each attack moved an image: {told}", moved=moved)
    nothing = len(idle) == len(moved)
    remedy = "these rows are those of the clean images: choose radii such as 1/255 to 8/255, and an attack that moves"
    text = f"{'nothing was attacked' if nothing else 'an attack did nothing'}: no image was moved farther than {told}"
    still = all(moved[name] <= allowed(norms[name], 0.0) for name in moved)
    return verdict(FAIL if nothing and still else WARN, text, remedy, moved=moved)


def _length(distance: float, norm: str) -> str:
    if not math.isfinite(distance):
        return "no limit"
    return f"{255 * distance:.3g}/255" if norm == "Linf" else f"{norm} {distance:.3g}"


CHECKS = (Check("something was attacked", something_attacked, essential=True),)
