import pytest

from tests.runs.small_run import begin


@pytest.fixture
def folder(tmp_path):
    """A run of two attacked conditions on eight images, just begun."""
    return begin(tmp_path / "run")
