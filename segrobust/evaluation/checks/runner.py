"""Makes the checks of a run and keeps their verdicts in ``checks.json``, so that none is made twice.

    content = run_checks(Context(evaluation, summary, full=False))
    content["trust"]        # "verified", "with warnings" or "not trustworthy"

The file is replaced after every check: a killed run goes on with the next one. Verdicts serve only the rows, identity
and tier that they were made for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segrobust import __version__
from segrobust.errors import UserError, unknown_name
from segrobust.evaluation.checks.base import INCOMPLETE, SKIPPED, WARN, Check, Skip, Verdict, trust_of, verdict
from segrobust.evaluation.checks.context import Context
from segrobust.evaluation.checks.registry import CHECKS
from segrobust.evaluation.progress import ImageProgress
from segrobust.evaluation.summary import Record

if TYPE_CHECKING:
    from segrobust.evaluation.work import Evaluation

FILE = "checks.json"
FORMAT = 1
LOGGER = logging.getLogger(__name__)
TIERS = ("quick", "full", "off")


def refuse_unfit(tier: str, declared: Any) -> None:
    """UserError, before the run begins, for a tier that does not exist or a declared score that is none."""
    if tier not in TIERS:
        raise unknown_name("tier of checks", str(tier), TIERS)
    numbers = declared.values() if isinstance(declared, Mapping) else [declared]
    known = isinstance(declared, Mapping) and "mIoU" in declared and set(declared) <= {"mIoU", "images"}
    if declared is not None and not (known and all(type(number) in (int, float) for number in numbers)):
        raise UserError(f"declared: expected dict(mIoU=PERCENT, images=NUMBER), the clean score, got {declared!r}")


def check_run(evaluation: Evaluation, tier: str, summary: Sequence[Record] = (), **facts: Any) -> None:
    """Make the checks of a tier, ``"off"`` for none, on a run or, given its ``error``, on what failed.

    Args:
        summary: the records of ``summary.json``.
        facts: ``declared``, ``files``, ``original``, ``altered`` and ``error`` of a :class:`Context`.
    """
    if tier != "off":
        run_checks(Context(evaluation, summary, full=tier == "full", **facts))


def run_checks(context: Context, checks: tuple[Check, ...] = CHECKS) -> dict[str, Any]:
    """Make the checks that have no verdict yet, and return the content of ``checks.json``.

    It is ``{format, basis, tier, trust, images, failed, checks}``; ``images`` are the ids of those that were looked
    at, ``failed`` says what the run's attack failed with (null: it did not); a check is ``{number, name, tier,
    verdict, evidence, numbers, remedy, seconds}``.
    """
    basis = _basis(context)
    known = _stored(context, basis)
    content = {
        "format": FORMAT,
        "basis": basis,
        "tier": "full" if context.full else "quick",
        "trust": INCOMPLETE,
        "images": context.ids,
        "failed": None if context.error is None else str(context.error),
        "checks": [],
    }
    todo = [check for check in checks if not _serves(known.get(check.number), check, context)]
    with ImageProgress(len(checks), len(checks) - len(todo), len(todo), bool(todo)) as progress:
        for check in checks:
            if check in todo:
                known[check.number] = _made(check, context)
                progress.advance(1, 1, f"trust checks, {check.name}")
                content["checks"] = [known[one.number] for one in checks if one.number in known]
                context.folder.write_json(FILE, content)
    content["checks"] = [known[one.number] for one in checks]
    content["trust"] = trust_of(one["verdict"] for one in content["checks"])
    context.folder.write_json(FILE, content)
    return content


def _made(check: Check, context: Context) -> dict[str, Any]:
    started = time.perf_counter()
    given = _verdict(check, context)
    return {
        "number": check.number,
        "name": check.name,
        "tier": "full" if context.full else "quick",
        "verdict": given.level,
        "evidence": given.evidence,
        "numbers": dict(given.numbers),
        "remedy": given.remedy,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _verdict(check: Check, context: Context) -> Verdict:
    if check.tier == "full" and not context.full:
        return verdict(SKIPPED, "only with --checks full")
    if context.error is not None and not check.unfinished:
        return verdict(SKIPPED, "the run's attack failed, there are no results to look at")
    try:
        return check.run(context)
    except Skip as reason:
        return verdict(SKIPPED, str(reason))
    except Exception as error:  # a model that a check breaks is a finding, not the end of a finished run
        LOGGER.warning("check %s (%s) could not be made", check.number, check.name, exc_info=error)
        reason = (str(error).strip() or "no message").splitlines()[0]
        text = f"could not be made: {type(error).__name__}: {reason}"
        return verdict(WARN, text, "find out why: what this check looks for is not known now")


def _basis(context: Context) -> str:
    """sha256 of what verdicts are about: the run's identity and row files, what is declared, and this version."""
    error = context.error and str(context.error)
    facts = [__version__, context.run, context.raw, dict(context.declared or {}), error]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _stored(context: Context, basis: str) -> dict[int, dict[str, Any]]:
    """The verdicts by number that an earlier start left for the same run."""
    if not (context.folder.path / FILE).is_file():
        return {}
    content = context.folder.read_json(FILE)
    if not isinstance(content, dict) or (content.get("format"), content.get("basis")) != (FORMAT, basis):
        return {}
    return {one["number"]: one for one in content["checks"]}


def _serves(stored: dict[str, Any] | None, check: Check, context: Context) -> bool:
    """Whether a stored verdict is as good as a new one: of the full tier, or where that looks no further."""
    if stored is None:
        return False
    return not context.full or stored["tier"] == "full" or not (check.longer or check.tier == "full")
