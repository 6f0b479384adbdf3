"""The table of mutations fits the code, and what is done with it tells a killed one from a survivor."""

from __future__ import annotations

import pytest

from tests import mutation as script
from tests.mutations import TABLE, Mutation


def test_there_are_enough_and_each_fits_the_code_once(repository):
    assert len(TABLE) >= 60 and len(set(TABLE)) == len(TABLE)
    for one in TABLE:
        assert one.old != one.new and script.occurrences(one) == 1, one
        assert one.tests and all((repository / "tests" / test.split("::")[0]).is_file() for test in one.tests), one


@pytest.fixture
def small_tree(tmp_path, monkeypatch):
    """A package of one line, with a test of half of it."""
    root = tmp_path / "root"
    for name, text in {
        "segrobust/__init__.py": "",
        "segrobust/code.py": "SEEN, UNSEEN = 1, 2\n",
        "tests/test_code.py": "from segrobust.code import SEEN\n\n\ndef test():\n    assert SEEN == 1\n",
        "configs/one.py": "",
        "examples/one.py": "",
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\n',
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(script, "ROOT", root)
    return root


def mutated(old, new):
    return Mutation("segrobust/code.py", old, new, ("test_code.py",))


SEEN, UNSEEN, BROKEN = mutated("1, 2", "3, 2"), mutated("1, 2", "1, 3"), mutated("1, 2", "1, )(")


def test_the_tests_see_the_code_of_the_copy(small_tree, tmp_path):
    copy = script.copy_tree(tmp_path / "copy")
    assert script.run_tests(copy, ["test_code.py"])[0] == script.PASSED
    (copy / "segrobust/code.py").write_text("SEEN, UNSEEN = 3, 2\n")
    status, said = script.run_tests(copy, ["test_code.py"])
    assert status == script.FAILED and "assert 3 == 1" in said


def test_killed_survived_misplaced_and_broken(small_tree, monkeypatch, capsys):
    def verdict(copy, tests, keep_bytecode=False):
        """What ``run_tests`` says of this package."""
        assert tests == ["test_code.py"] or tests == ("test_code.py",)
        code = (copy / "segrobust/code.py").read_text()
        return (2, "no test ran") if ")(" in code else (int("= 1" not in code), "")

    def run(*table, arguments=()):
        monkeypatch.setattr(script, "TABLE", table)
        status, said = script.main(arguments), capsys.readouterr()
        return status, said.out, said.err

    monkeypatch.setattr(script, "run_tests", verdict)
    status, out, _ = run(SEEN)
    assert status == 0 and out.startswith("killed") and "1 mutations, 1 killed, 0 not" in out
    status, out, _ = run(SEEN, UNSEEN, BROKEN, arguments=["--jobs", "2"])
    assert status == 1 and out.count("SURVIVED") == 1 and "3 mutations, 1 killed, 2 not" in out
    assert "NOT RUN, pytest says 2" in out and "no test ran" in out
    assert run(SEEN, UNSEEN, arguments=["--only", "3, 2"])[0] == 0
    assert run(SEEN, arguments=["--only", "nowhere"])[0] == 2
    status, out, _ = run(SEEN, UNSEEN, arguments=["--list"])
    assert status == 0 and len(out.splitlines()) == 2
    for misplaced, count in ((mutated("= 7", "= 8"), 0), (mutated("E", "F"), 4)):
        status, _, err = run(SEEN, misplaced)
        assert status == 1 and f"found {count} times, expected once" in err
    assert (small_tree / "segrobust/code.py").read_text() == "SEEN, UNSEEN = 1, 2\n"
    (small_tree / "segrobust/code.py").write_text("SEEN, UNSEEN = 9, 2\n")
    status, out, err = run(mutated("9, 2", "1, 2"))
    assert status == 1 and "do not pass as they are" in err and not out
