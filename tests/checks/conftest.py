import pytest


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """The report takes longer than the checks, and has tests of its own."""
    monkeypatch.setattr("segrobust.commands.evaluation.build_report", lambda *_: None)
