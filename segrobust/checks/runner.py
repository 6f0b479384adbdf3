"""Makes the checks of a finished run and keeps their verdicts in ``checks.json``, so that none is made twice.

    content = run_checks(Context(executor, summary, full=False))
    content["trust"]        # "verified", "with warnings" or "not trustworthy"

The file is replaced after every check: a killed run goes on with the next one. Verdicts serve only the state of the run
that they were made for, and those of the quick tier no full one; whoever reads the file compares its basis
(``basis.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segrobust.analysis.summary import Record
from segrobust.checks import attack, blind, clean, gradient, integrity, model, results, strength
from segrobust.checks.basis import FILE, FORMAT, basis_of, digest_of, with_digest
from segrobust.checks.context import Context
from segrobust.checks.verdicts import INCOMPLETE, SKIPPED, WARN, Check, NotApplicable, Skip, Verdict, trust_of, verdict
from segrobust.core.errors import first_line
from segrobust.core.version import __version__
from segrobust.runs.environment import code_sha256
from segrobust.runs.executor import Executor
from segrobust.runs.progress import ImageProgress
from segrobust.runs.settings import CHECKS as TIERS

LOGGER = logging.getLogger(__name__)
HERE = Path(__file__).parent
QUICK, FULL, OFF = TIERS
_THEMES = (integrity, clean, results, model, gradient, attack, strength, blind)
CHECKS: tuple[Check, ...] = tuple(check for theme in _THEMES for check in theme.CHECKS)  # as they are made and shown


def check_run(executor: Executor, tier: str, summary: Sequence[Record] = (), **facts: Any) -> None:
    """Make the checks of a tier, ``"off"`` for none, on a finished run or, given its ``error``, on what failed.

    Args:
        summary: the records of ``summary.json``.
        facts: ``declared``, ``files``, ``altered`` and ``error`` of a :class:`Context`.
    """
    if tier != OFF:
        run_checks(Context(executor, summary, full=tier == FULL, **facts))


def run_checks(context: Context, checks: tuple[Check, ...] = CHECKS) -> dict[str, Any]:
    """Make the checks that have no verdict yet, and return the content of ``checks.json``.

    It is ``{format, basis, settings, tier, trust, images, failed, checks, sha256}``; ``images`` are the ids of those
    that were looked at, ``failed`` says what the run's attack failed with (null: it did not); a check is ``{name,
    tier, verdict, evidence, numbers, remedy, open, seconds}``.
    """
    about = {"format": FORMAT, "basis": basis_of(context.folder), "settings": _settings(context)}
    known = _stored(context, about)
    todo = [check for check in checks if check.name not in known]
    with ImageProgress(len(checks), len(checks) - len(todo), len(todo), bool(todo)) as progress:
        for check in todo:
            known[check.name] = _made(check, context)
            progress.advance(1, 1, f"trust checks, {check.name}")
            content = _content(context, about, [known[one.name] for one in checks if one.name in known])
            context.folder.write_json(FILE, with_digest({**content, "trust": INCOMPLETE}))
    content = with_digest(_content(context, about, [known[one.name] for one in checks]))
    context.folder.write_json(FILE, content)
    return content


def _content(context: Context, about: Mapping[str, Any], verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        **about,
        "tier": FULL if all(one["tier"] == FULL for one in verdicts) else QUICK,
        "trust": trust_of(verdicts),
        "images": context.ids,
        "failed": None if context.error is None else str(context.error),
        "checks": verdicts,
    }


def _made(check: Check, context: Context) -> dict[str, Any]:
    started = time.perf_counter()
    given = _verdict(check, context)
    return {
        "name": check.name,
        "tier": FULL if context.full else QUICK,
        "verdict": given.level,
        "evidence": given.evidence,
        "numbers": dict(given.numbers),
        "remedy": given.remedy,
        "open": given.open,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _verdict(check: Check, context: Context) -> Verdict:
    if check.full and not context.full:
        return verdict(SKIPPED, "only with --checks full")
    if context.error is not None and not check.unfinished:
        return check.skipped("the run's attack failed, there are no results to look at")
    try:
        if check.studies and not any(one.study in check.studies for one in context.conditions):
            raise NotApplicable(f"nothing to look for: the run has no {' or '.join(check.studies)}")
        return check.run(context)
    except NotApplicable as reason:
        return verdict(SKIPPED, str(reason))
    except Skip as reason:
        return check.skipped(str(reason))
    except Exception as error:  # a model that a check breaks is a finding, not the end of a finished run
        LOGGER.warning("the check %r could not be made", check.name, exc_info=error)
        text = f"could not be made: {type(error).__name__}: {first_line(error)}"
        return verdict(WARN, text, "find out why: what this check looks for is not known now")


def _settings(context: Context) -> str:
    """Digest of what verdicts depend on besides the files: the checks' code, what is declared, and what failed."""
    error = context.error and str(context.error)
    code = [__version__, code_sha256(HERE, leave_out=())]
    return digest_of([*code, context.run.get("about"), dict(context.declared or {}), error])


def _stored(context: Context, about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The verdicts by name that an earlier start left for the same run, untouched since, and that serve this one."""
    if not (context.folder.path / FILE).is_file():
        return {}
    content = context.folder.read_json(FILE)
    if not isinstance(content, dict) or with_digest(content) != content:
        return {}
    if any(content.get(name) != value for name, value in about.items()):
        return {}
    return {one["name"]: one for one in content["checks"] if one["tier"] == FULL or not context.full}
