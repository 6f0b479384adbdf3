"""Makes the checks of a run and keeps their verdicts in ``checks.json``, so that another start need not.

    content = run_checks(Context(executor, summary))
    content["trust"]        # "verified", "with warnings" or "not trustworthy"

Verdicts serve only the state of the run that they were made for; whoever reads the file compares its basis
(``basis.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segrobust.checks import attack, clean, gradient, integrity, model, results, strength
from segrobust.checks.basis import FILE, FORMAT, basis_of, digest_of, with_digest
from segrobust.checks.context import Context
from segrobust.checks.verdicts import SKIPPED, WARN, Check, NotApplicable, Skip, Verdict, trust_of, verdict
from segrobust.core.errors import first_line
from segrobust.core.version import __version__
from segrobust.runs.environment import code_sha256
from segrobust.runs.progress import ImageProgress

LOGGER = logging.getLogger(__name__)
HERE = Path(__file__).parent
_THEMES = (integrity, clean, results, model, gradient, attack, strength)
CHECKS: tuple[Check, ...] = tuple(check for theme in _THEMES for check in theme.CHECKS)  # as they are made and shown


def run_checks(context: Context, checks: tuple[Check, ...] = CHECKS) -> dict[str, Any]:
    """Make the checks, or take those of an earlier start of the same run, and return the content of ``checks.json``.

    It is ``{format, basis, settings, trust, images, failed, checks, sha256}``; ``images`` are the ids of those
    that were looked at, ``failed`` says what the run's attack failed with (null: it did not); a check is ``{name,
    verdict, evidence, numbers, remedy, open, seconds}``.
    """
    about = _about(context, checks)
    if content := _stored(context, about):
        return content
    made = []
    with ImageProgress(len(checks), unit="checks") as progress:
        progress.begin("trust checks", len(checks))
        for check in checks:
            progress.running(f"trust checks, {check.name}")
            made.append(_made(check, context))
            progress.advance(1, 1)
    failed = None if context.error is None else str(context.error)
    content = {**about, "trust": trust_of(made), "images": context.ids, "failed": failed, "checks": made}
    content = with_digest(content)
    context.folder.write_json(FILE, content)
    return content


def _made(check: Check, context: Context) -> dict[str, Any]:
    started = time.perf_counter()
    given = _verdict(check, context)
    return {
        "name": check.name,
        "verdict": given.level,
        "evidence": given.evidence,
        "numbers": dict(given.numbers),
        "remedy": given.remedy,
        "open": given.open,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _verdict(check: Check, context: Context) -> Verdict:
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


def _settings(context: Context, checks: tuple[Check, ...]) -> str:
    """Digest of what verdicts depend on besides the files: the checks' code, what is declared, and what failed."""
    error = context.error and str(context.error)
    code = [__version__, code_sha256(HERE, leave_out=()), *(check.name for check in checks)]
    return digest_of([*code, context.run.get("about"), dict(context.declared or {}), error])


def _about(context: Context, checks: tuple[Check, ...]) -> dict[str, Any]:
    return {"format": FORMAT, "basis": basis_of(context.folder), "settings": _settings(context, checks)}


def checked_before(context: Context) -> bool:
    """Whether an earlier start has left the verdicts, so that this one need not look again."""
    return _stored(context, _about(context, CHECKS)) is not None


def _stored(context: Context, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an earlier start left for the same run, where nothing has changed since."""
    if not (context.folder.path / FILE).is_file():
        return None
    content = context.folder.read_json(FILE)
    whole = isinstance(content, dict) and with_digest(content) == content
    return content if whole and all(content.get(name) == value for name, value in about.items()) else None
