import pytest


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Pictures and report take longer than the checks, and have tests of their own."""
    monkeypatch.setattr("segrobust.evaluation.runner.write_pictures", lambda *_: None)
    monkeypatch.setattr("segrobust.evaluation.runner.build_report", lambda *_: None)
