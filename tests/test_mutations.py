"""The table of mutations fits the code, and what is done with it tells a killed one from a survivor."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import mutation as script
from tests.mutations import TABLE, Mutation


def test_there_are_enough_and_each_fits_the_code_once(repository):
    assert len(TABLE) >= 60 and len(set(TABLE)) == len(TABLE)
    for one in TABLE:
        assert one.old != one.new and script.occurrences(one) == 1, one
        code = (repository / one.file).read_text(encoding="utf-8")
        assert ast.dump(ast.parse(code)) != ast.dump(ast.parse(code.replace(one.old, one.new))), one
        assert one.tests and all((repository / "tests" / test.split("::")[0]).is_file() for test in one.tests), one


@pytest.fixture
def small_tree(tmp_path, monkeypatch):
    """A package of one line, with a test of half of it."""
    root = tmp_path / "root"
    for name, text in {
        "segrobust/__init__.py": "",
        "segrobust/code.py": "SEEN, UNSEEN = 1, 2\n",
        "tests/test_code.py": "from segrobust.code import SEEN\n\n\ndef test():\n    assert SEEN == 1\n",
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\n',
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(script, "ROOT", root)
    return root


def mutated(old, new, file="segrobust/code.py"):
    return Mutation(file, old, new, ("test_code.py",))


def test_killed_survived_misplaced_and_broken(small_tree, monkeypatch, capsys):
    def run(*table, arguments=()):
        monkeypatch.setattr(script, "TABLE", table)
        return script.main(arguments), capsys.readouterr()

    seen, unseen = mutated("1, 2", "3, 2"), mutated("1, 2", "1, 3")
    status, said = run(seen)
    assert status == 0 and said.out.startswith("killed") and "1 mutations, 1 killed, 0 not" in said.out
    status, said = run(seen, unseen, arguments=["--jobs", "2"])
    assert status == 1 and said.out.count("SURVIVED") == 1 and "2 mutations, 1 killed, 1 not" in said.out
    assert run(seen, unseen, arguments=["--only", "3, 2"])[0] == 0
    assert run(seen, arguments=["--only", "nowhere"])[0] == 2
    status, said = run(seen, unseen, arguments=["--list"])
    assert status == 0 and len(said.out.splitlines()) == 2
    assert run(mutated("= 7", "= 8"))[0] == 1 and run(mutated("E", "F"))[0] == 1  # nowhere; in two places
    status, said = run(mutated("1, 2", "1, 2, )("))  # no test runs
    assert status == 1 and "NOT RUN" in said.out
    assert (small_tree / "segrobust/code.py").read_text() == "SEEN, UNSEEN = 1, 2\n"
    (small_tree / "tests/test_code.py").write_text("def test():\n    assert False\n")
    status, said = run(seen)
    assert status == 1 and "do not pass as they are" in said.err


def test_nothing_of_it_is_collected_as_a_test():
    assert not Path(script.__file__).name.startswith("test_")
