"""What a reader learns of a run's trust checks: the level first, then every check with evidence and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrobust.checks.basis import FILE, doubt, outdated
from segrobust.checks.verdicts import FAIL, INCOMPLETE, LEVELS, NOT_TRUSTWORTHY, WARN, trust_of
from segrobust.core.errors import UserError
from segrobust.runs.folder import RunFolder

_TEXTS = ("name", "verdict", "evidence", "remedy")


@dataclass(frozen=True)
class Trust:
    """The content of ``checks.json``.

    checks: ``{name, verdict, evidence, remedy, open}`` each.
    doubt: why these checks are not those of the run; empty where they are.
    """

    level: str
    checks: list[dict[str, Any]]
    doubt: str = ""

    @property
    def failed(self) -> str:
        """What makes the run not trustworthy: the failed checks, or the doubt; empty where nothing does."""
        return self.doubt if self.level == NOT_TRUSTWORTHY and self.doubt else self._named(FAIL)

    @property
    def why(self) -> str:
        """What lowers the level, such as ``failed: gradient usable; warnings: enough images``."""
        opened = ", ".join(check["name"] for check in self.checks if check["open"])
        parts = {"failed": self._named(FAIL), "warnings": self._named(WARN), "essential, but not made": opened}
        reasons = [self.doubt, *(f"{what}: {names}" for what, names in parts.items() if names)]
        return "; ".join(filter(None, reasons))

    @property
    def counts(self) -> str:
        """``21 pass, 3 info, 2 warn``."""
        verdicts = [check["verdict"] for check in self.checks]
        return ", ".join(f"{verdicts.count(level)} {level}" for level in LEVELS if level in verdicts)

    @property
    def sentence(self) -> str:
        """The level with its reasons, in one line."""
        return f"{self.level} ({self.why})" if self.why else self.level

    def _named(self, level: str) -> str:
        return ", ".join(check["name"] for check in self.checks if check["verdict"] == level)


def load_trust(path: Path) -> Trust | None:
    """The trust of a run folder; None where no checks were made.

    The level is found anew from the verdicts, and so can never be better than they are. Checks of another run, or
    edited ones, make it not trustworthy.

    Raises:
        UserError: a file that segrobust did not write.
    """
    if not (path / FILE).is_file():
        return None
    folder = RunFolder(path)
    content = folder.read_json(FILE)
    checks = content.get("checks") if isinstance(content, dict) else None
    if isinstance(checks, list) and (reason := outdated(content)):
        return Trust(INCOMPLETE, [], reason)
    if not isinstance(checks, list) or not all(map(_is_check, checks)):
        raise UserError(f"{path}/{FILE}: expected a list of checks, as segrobust writes it; remove the file")
    reason, level = doubt(folder, content), trust_of(checks)
    shown = [{name: check[name] for name in (*_TEXTS, "open")} for check in checks]
    return Trust(NOT_TRUSTWORTHY if reason else level, shown, reason)


def _is_check(check: Any) -> bool:
    if not isinstance(check, dict) or type(check.get("open")) is not bool:
        return False
    return all(isinstance(check.get(name), str) for name in _TEXTS) and check["verdict"] in LEVELS
