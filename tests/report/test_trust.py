"""What a reader sees of the trust checks, in the report and on the terminal."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from segrobust.errors import UserError
from segrobust.report import build_report
from segrobust.report.table import print_table
from segrobust.report.trust import load_trust, print_checks
from tests.report.test_report import HOSTILE, Page

VERDICTS = ("pass", "info", "skipped", "warn", "fail")


def store(folder, verdicts=VERDICTS, trust="verified", text="seen {}", **more):
    checks = [
        {
            "number": number, "name": f"check {word}", "verdict": word, "evidence": text.format(f"{number}.25 %"),
            "remedy": f"mend {word}" if word in ("warn", "fail") else "", "numbers": {},
        }
        for number, word in enumerate(verdicts, start=1)
    ]  # fmt: skip
    (folder / "checks.json").write_text(json.dumps({"trust": trust, "tier": "quick", "checks": checks, **more}))
    return folder


def printed(function, *arguments):
    console = Console(file=io.StringIO(), width=120)
    function(*arguments[:-1], console) if arguments[-1] is None else function(arguments[0], console, arguments[-1])
    return console.file.getvalue()


def test_the_level_stands_above_the_numbers_and_every_check_below(make_run):
    page = Page(build_report([store(make_run())]).read_text())
    text = " ".join(" ".join(page.text).split())
    assert text.index("not trustworthy failed: 5 check fail; warnings: 4 check warn") < text.index(
        "Worst case over all"
    )
    for number, word in enumerate(VERDICTS, start=1):
        assert f"{number} check {word} {word} seen {number}.25 %" in text
    assert "mend warn" in text and "mend fail" in text
    assert "1 pass, 1 info, 1 skipped, 1 warn, 1 fail" in text


def test_a_run_without_checks_says_so_and_each_of_several_has_its_level(make_run, tmp_path):
    folders = [make_run("standard"), store(make_run("robust"), ("pass", "warn"))]
    text = " ".join(" ".join(Page(build_report(folders, tmp_path / "both.html").read_text()).text).split())
    assert "standard: not checked No trust checks were made on this run" in text
    assert "robust: with warnings warnings: 2 check warn" in text
    assert "Trust checks: robust" in text and "Trust checks: standard" not in text


def test_hostile_words_in_checks_stay_words(make_run):
    calm = Page(build_report([store(make_run())]).read_text())
    braces = HOSTILE.replace("{", "{{").replace("}", "}}")
    page = Page(build_report([store(make_run(), text=braces)]).read_text())
    assert page.tags == calm.tags and "".join(page.text).count("<script>alert(1)</script>") == 10


@pytest.mark.parametrize(
    ("verdicts", "stored", "level"),
    [
        (("pass", "fail"), "verified", "not trustworthy"),
        (("pass", "warn"), "verified", "with warnings"),
        (("pass",), "verified", "verified"),
        (("pass", "warn"), "incomplete", "incomplete"),
        (("fail",), "incomplete", "not trustworthy"),
    ],
)
def test_the_level_is_never_better_than_the_verdicts(tmp_path, verdicts, stored, level):
    assert load_trust(store(tmp_path, verdicts, stored)).level == level


def test_what_segrobust_did_not_write_is_refused(tmp_path):
    assert load_trust(tmp_path) is None
    for content in ([], {"checks": 3}, {"checks": [{"number": 1}]}, {"checks": [{"number": "1", "verdict": "pass"}]}):
        (tmp_path / "checks.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="expected a list of checks"):
            load_trust(tmp_path)
    with pytest.raises(UserError, match="expected a list of checks"):
        load_trust(store(tmp_path, ("excellent",)))


def test_the_terminal_shows_all_checks_and_the_level_first(make_run):
    folder = store(make_run())
    trust = load_trust(folder)
    shown = printed(print_checks, trust, None)
    for number, word in enumerate(VERDICTS, start=1):
        assert f"check {word}" in shown and f"seen {number}.25 %" in shown
    assert "-> mend fail" in shown and "-> mend warn" in shown
    summary = {"mine": json.loads((folder / "summary.json").read_text())}
    lines = printed(print_table, summary, {"mine": trust}).splitlines()
    assert lines[1] == "trust: not trustworthy (failed: 5 check fail; warnings: 4 check warn)"
    assert printed(print_table, summary, {"mine": None}).splitlines()[1] == "trust: unknown, no checks were made"
    assert "trust" not in printed(print_table, summary, {})
