"""Makes the checks of a run and keeps their verdicts in ``checks.json``, so that none is made twice.

    content = run_checks(Context(evaluation, summary, full=False))
    content["trust"]        # "verified", "with warnings" or "not trustworthy"

The file is replaced after every check: a killed run goes on with the next one. Verdicts serve only the rows, identity
and tier that they were made for; whoever reads the file compares its basis (``basis.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segrobust.analysis.summary import Record
from segrobust.checks.base import (
    INCOMPLETE,
    SKIPPED,
    WARN,
    Check,
    NotApplicable,
    Skip,
    Verdict,
    trust_of,
    verdict,
)
from segrobust.checks.basis import FILE, FORMAT, basis_of, digest_of, sealed
from segrobust.checks.context import Context
from segrobust.checks.registry import CHECKS
from segrobust.core.errors import UserError, unknown_name
from segrobust.core.version import __version__
from segrobust.runs.environment import code_sha256
from segrobust.runs.progress import ImageProgress

if TYPE_CHECKING:
    from segrobust.runs.executor import Evaluation

LOGGER = logging.getLogger(__name__)
HERE = Path(__file__).parent
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

    It is ``{format, basis, settings, tier, trust, images, failed, checks, seal}``; ``images`` are the ids of those
    that were looked at, ``failed`` says what the run's attack failed with (null: it did not); a check is ``{name,
    tier, verdict, evidence, numbers, remedy, open, seconds}``.
    """
    about = {"format": FORMAT, "basis": basis_of(context.folder), "settings": _settings(context)}
    known = _stored(context, about)
    content = {
        **about,
        "tier": "full" if context.full else "quick",
        "trust": INCOMPLETE,
        "images": context.ids,
        "failed": None if context.error is None else str(context.error),
        "checks": [],
    }
    todo = [check for check in checks if not _serves(known.get(check.name), check, context)]
    with ImageProgress(len(checks), len(checks) - len(todo), len(todo), bool(todo)) as progress:
        for check in checks:
            if check in todo:
                known[check.name] = _made(check, context)
                progress.advance(1, 1, f"trust checks, {check.name}")
                content["checks"] = [known[one.name] for one in checks if one.name in known]
                context.folder.write_json(FILE, sealed(content))
    content["checks"] = [known[one.name] for one in checks]
    content["trust"] = trust_of(content["checks"])
    context.folder.write_json(FILE, sealed(content))
    return sealed(content)


def _made(check: Check, context: Context) -> dict[str, Any]:
    started = time.perf_counter()
    given = _verdict(check, context)
    return {
        "name": check.name,
        "tier": "full" if context.full else "quick",
        "verdict": given.level,
        "evidence": given.evidence,
        "numbers": dict(given.numbers),
        "remedy": given.remedy,
        "open": given.open,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _verdict(check: Check, context: Context) -> Verdict:
    if check.tier == "full" and not context.full:
        return verdict(SKIPPED, "only with --checks full")
    if context.error is not None and not check.unfinished:
        return check.skipped("the run's attack failed, there are no results to look at")
    try:
        return check.run(context)
    except NotApplicable as reason:
        return verdict(SKIPPED, str(reason))
    except Skip as reason:
        return check.skipped(str(reason))
    except Exception as error:  # a model that a check breaks is a finding, not the end of a finished run
        LOGGER.warning("the check %r could not be made", check.name, exc_info=error)
        reason = (str(error).strip() or "no message").splitlines()[0]
        text = f"could not be made: {type(error).__name__}: {reason}"
        return verdict(WARN, text, "find out why: what this check looks for is not known now")


def _settings(context: Context) -> str:
    """Digest of what verdicts depend on besides the files: the checks' code, what is declared, and what failed."""
    error = context.error and str(context.error)
    code = [__version__, code_sha256(HERE, leave_out=())]
    return digest_of([*code, context.run.get("about"), dict(context.declared or {}), error])


def _stored(context: Context, about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The verdicts by name that an earlier start left for the same run, untouched since."""
    if not (context.folder.path / FILE).is_file():
        return {}
    content = context.folder.read_json(FILE)
    if not isinstance(content, dict) or sealed(content) != content:
        return {}
    if any(content.get(name) != value for name, value in about.items()):
        return {}
    return {one["name"]: one for one in content["checks"]}


def _serves(stored: dict[str, Any] | None, check: Check, context: Context) -> bool:
    """Whether a stored verdict is as good as a new one: of the full tier, or where that looks no further."""
    if stored is None:
        return False
    return not context.full or stored["tier"] == "full" or not (check.longer or check.tier == "full")
