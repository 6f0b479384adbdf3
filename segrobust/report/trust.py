"""What a reader learns of a run's trust checks: the level first, then every check with evidence and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segrobust.errors import UserError
from segrobust.evaluation.checks.base import FAIL, INCOMPLETE, LEVELS, PASS, SKIPPED, WARN, trust_of
from segrobust.evaluation.store import RunFolder

_TEXTS = ("name", "verdict", "evidence", "remedy")
_STYLES = {PASS: "green", SKIPPED: "dim", WARN: "yellow", FAIL: "bold red"}


@dataclass(frozen=True)
class Trust:
    """The content of ``checks.json``; ``checks`` are ``{number, name, verdict, evidence, remedy}``."""

    level: str
    tier: str
    checks: list[dict[str, Any]]

    @property
    def failed(self) -> str:
        """The failed checks in words; empty where none failed."""
        return self._named(FAIL)

    @property
    def why(self) -> str:
        """What lowers the level, such as ``failed: 9 gradient usable; warnings: 26 enough images``."""
        parts = {"failed": self.failed, "warnings": self._named(WARN)}
        return "; ".join(f"{what}: {names}" for what, names in parts.items() if names)

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
        return ", ".join(f"{check['number']} {check['name']}" for check in self.checks if check["verdict"] == level)


def load_trust(path: Path) -> Trust | None:
    """The trust of a run folder; None where no checks were made.

    The level is found anew from the verdicts, and so can never be better than they are.

    Raises:
        UserError: a file that segrobust did not write.
    """
    if not (path / "checks.json").is_file():
        return None
    content = RunFolder(path).read_json("checks.json")
    checks = content.get("checks") if isinstance(content, dict) else None
    if not isinstance(checks, list) or not all(map(_is_check, checks)):
        raise UserError(f"{path}/checks.json: expected a list of checks, as segrobust writes it; remove the file")
    level = trust_of(check["verdict"] for check in checks)
    if content.get("trust") == INCOMPLETE and not any(check["verdict"] == FAIL for check in checks):
        level = INCOMPLETE
    shown = [{name: check[name] for name in ("number", *_TEXTS)} for check in checks]
    return Trust(level, str(content.get("tier")), shown)


def _is_check(check: Any) -> bool:
    if not isinstance(check, dict) or type(check.get("number")) is not int:
        return False
    return all(isinstance(check.get(name), str) for name in _TEXTS) and check["verdict"] in LEVELS


def print_checks(trust: Trust, console: Console) -> None:
    """Every check with its evidence; below it, where something is wrong, what to do."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title, more in (("", {"justify": "right"}), ("trust check", {}), ("verdict", {}), ("evidence", {"ratio": 1})):
        table.add_column(title, overflow="fold", **more)
    for check in trust.checks:
        style = _STYLES.get(check["verdict"], "")
        evidence = Text(check["evidence"], style="dim" if check["verdict"] == SKIPPED else "")
        if check["remedy"]:
            evidence.append(f"\n-> {check['remedy']}", style=style)
        table.add_row(Text(str(check["number"])), Text(check["name"]), Text(check["verdict"], style=style), evidence)
    console.print(table)
    console.print(Text(f"trust: {trust.level}: {trust.counts}", style="bold"), soft_wrap=True)
