"""What a reader sees of the trust checks, in the report and on the terminal."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from segrobust.checks.basis import FORMAT, basis_of, with_digest
from segrobust.core.errors import UserError
from segrobust.report import build_report
from segrobust.report.table import print_checks, print_table
from segrobust.report.trust import load_trust
from segrobust.runs.folder import RunFolder
from tests.report.test_report import HOSTILE, Page

VERDICTS = ("pass", "info", "skipped", "warn", "fail")


def store(folder, verdicts=VERDICTS, trust="verified", text="seen {}", opened=(), **more):
    checks = [
        {
            "name": f"check {word}", "verdict": word, "evidence": text.format(f"{number}.25 %"),
            "remedy": f"mend {word}" if word in ("warn", "fail") else "", "numbers": {}, "open": word in opened,
        }
        for number, word in enumerate(verdicts, start=1)
    ]  # fmt: skip
    basis = basis_of(RunFolder(folder))
    content = {"format": FORMAT, "basis": basis, "trust": trust, "checks": checks, **more}
    (folder / "checks.json").write_text(json.dumps(with_digest(content)))
    return folder


def printed(function, *arguments):
    console = Console(file=io.StringIO(), width=120)
    function(*arguments[:-1], console) if arguments[-1] is None else function(arguments[0], console, arguments[-1])
    return console.file.getvalue()


def test_the_level_stands_above_the_numbers_and_every_check_below(make_run):
    page = Page(build_report([store(make_run())]).read_text())
    text = " ".join(" ".join(page.text).split())
    assert text.index("not trustworthy failed: check fail; warnings: check warn") < text.index("Worst case over all")
    for number, word in enumerate(VERDICTS, start=1):
        assert f"check {word} {word} seen {number}.25 %" in text
    assert "mend warn" in text and "mend fail" in text
    assert "1 pass, 1 info, 1 skipped, 1 warn, 1 fail" in text


def test_a_run_without_checks_says_so_and_each_of_several_has_its_level(make_run, tmp_path):
    folders = [make_run("standard"), store(make_run("robust"), ("pass", "warn"))]
    text = " ".join(" ".join(Page(build_report(folders, tmp_path / "both.html").read_text()).text).split())
    standard, robust = re.findall(r"(standard|robust) On 4 clean images.*?Trust: (.*?) Cost:", text)
    assert standard == ("standard", "not checked No trust checks were made on this run ( --no-checks ).")
    assert robust == ("robust", "with warnings warnings: check warn")
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
    ],
)
def test_the_level_is_never_better_than_the_verdicts(make_run, verdicts, stored, level):
    assert load_trust(store(make_run(), verdicts, stored)).level == level


def test_an_essential_check_left_out_is_named(make_run):
    trust = load_trust(store(make_run(), ("pass", "skipped"), opened=("skipped",)))
    assert trust.sentence == "with warnings (essential, but not made: check skipped)"
    assert load_trust(store(make_run(), ("pass", "skipped"))).sentence == "verified"


def test_checks_of_another_state_are_told_in_report_and_table(make_run, tmp_path):
    folder = store(make_run(), ("pass",))
    summary = json.loads((folder / "summary.json").read_text())
    summary[0]["aAcc"] += 1
    (folder / "summary.json").write_text(json.dumps(summary))
    trust = load_trust(folder)
    assert trust.level == "not trustworthy" and trust.failed.startswith("checks.json belongs to another run")
    text = " ".join(" ".join(Page(build_report([folder]).read_text()).text).split())
    assert "not trustworthy checks.json belongs to another run" in text and "made for other summary.json" in text
    shown = printed(print_table, {"mine": summary}, {"mine": trust}).splitlines()[1]
    assert shown.startswith("trust: not trustworthy (checks.json belongs to another run")
    assert "not trustworthy: checks.json belongs to" in printed(print_checks, trust, None)


def test_a_verdict_changed_by_hand_is_noticed(make_run):
    folder = store(make_run(), ("pass", "warn"))
    file = folder / "checks.json"
    file.write_text(file.read_text().replace('"verdict": "warn"', '"verdict": "pass"'))
    assert load_trust(folder).sentence.startswith("not trustworthy (checks.json was edited")


def test_checks_with_numbers_are_of_another_version(make_run):
    folder = make_run()
    old = [{"number": 9, "name": "gradient usable", "verdict": "pass", "evidence": "x", "remedy": ""}]
    (folder / "checks.json").write_text(json.dumps({"format": 1, "trust": "verified", "tier": "quick", "checks": old}))
    trust = load_trust(folder)
    assert trust.level == "incomplete" and not trust.failed and not trust.checks
    assert trust.why == "checks.json was written by another version of segrobust; run the evaluation again"
    text = " ".join(" ".join(Page(build_report([folder]).read_text()).text).split())
    assert "incomplete checks.json was written by another version" in text


def test_what_segrobust_did_not_write_is_refused(make_run):
    folder = make_run()
    assert load_trust(folder) is None
    checks = (3, [{"name": "x"}], [{"name": "x", "verdict": "pass", "evidence": "", "remedy": "", "open": 0}])
    for content in ([], *({"format": FORMAT, "checks": one} for one in checks)):
        (folder / "checks.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="expected a list of checks"):
            load_trust(folder)
    with pytest.raises(UserError, match="expected a list of checks"):
        load_trust(store(folder, ("excellent",)))


def test_the_terminal_shows_all_checks_and_the_level_first(make_run):
    folder = store(make_run())
    trust = load_trust(folder)
    shown = printed(print_checks, trust, None)
    for number, word in enumerate(VERDICTS, start=1):
        assert f"check {word}" in shown and f"seen {number}.25 %" in shown
    assert "-> mend fail" in shown and "-> mend warn" in shown
    summary = {"mine": json.loads((folder / "summary.json").read_text())}
    lines = printed(print_table, summary, {"mine": trust}).splitlines()
    assert lines[1] == "trust: not trustworthy (failed: check fail; warnings: check warn)"
    assert printed(print_table, summary, {"mine": None}).splitlines()[1] == "trust: unknown, no checks were made"
    assert "trust" not in printed(print_table, summary, {})
