"""Packaging: the Makefile installs once, and the pinned versions fit what pyproject.toml asks for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FAKE_UV = """#!/bin/sh
echo "uv $*"
mkdir -p .venv/bin
printf '#!/bin/sh\\necho "ruff $*"\\n' > .venv/bin/ruff
cp fake-python .venv/bin/python
chmod +x .venv/bin/ruff .venv/bin/python
"""
# sees as many GPUs as FAKE_GPUS says, and runs tests with the exit status FAKE_STATUS
FAKE_PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then test "$FAKE_GPUS" -gt 0; exit; fi
echo "python $* | visible: ${CUDA_VISIBLE_DEVICES-all} | gpu tests: ${SEGROBUST_TEST_GPU-no}"
case "$*" in *tests/gpu*) exit "$FAKE_STATUS";; esac
"""
HIDING = ("CUDA_VISIBLE_DEVICES", "SEGROBUST_TEST_GPU")


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(repository / name, tmp_path)
    (tmp_path / "uv").write_text(FAKE_UV)
    (tmp_path / "uv").chmod(0o755)
    (tmp_path / "fake-python").write_text(FAKE_PYTHON)
    return tmp_path


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = ["make", "--no-print-directory", *arguments, f"UV={folder / 'uv'}"]
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "VENV"))}
    given = {"PYTHON": sys.executable} if not any(one.startswith("PYTHON=") for one in arguments) else {}
    command += [f"{name}={value}" for name, value in given.items()]
    settings = {name: value for name, value in settings.items() if name not in HIDING} | environment
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)


def test_docs_are_built_so_that_a_warning_fails(checkout):
    made = make(checkout, "docs")
    assert made.returncode == 0, made.stderr
    assert "python -m sphinx -q -W --keep-going -n -b html docs docs/_build/html" in made.stdout.replace('"', "")


def test_second_run_installs_nothing(checkout):
    first = make(checkout, "lint")
    assert first.returncode == 0, first.stderr
    assert "--constraint constraints.txt --editable .[dev]" in first.stdout.replace('"', "")
    second = make(checkout, "lint")
    assert "uv " not in second.stdout and "ruff check" in second.stdout
    (checkout / "constraints.txt").touch()
    assert "uv pip install" in make(checkout, "lint").stdout


def test_too_old_a_python_is_told_in_words(checkout):
    done = make(checkout, "lint", "PYTHON=false")
    assert done.returncode == 2
    assert done.stderr.startswith("segrobust needs Python >= 3.10, and 'false' is not one")
    assert not (checkout / ".venv").exists()


def runs_of(done: subprocess.CompletedProcess) -> list[str]:
    """What pytest was started with, start by start."""
    return [line.partition(" -m pytest ")[2] for line in done.stdout.splitlines() if line.startswith("python -m")]


def test_the_suite_hides_the_gpu_and_the_gpu_tests_follow_where_there_is_one(checkout):
    hidden, shown = "| visible:  | gpu tests: no", "tests/gpu | visible: all | gpu tests: 1"
    done = make(checkout, "test", FAKE_GPUS="1", FAKE_STATUS="0")
    assert done.returncode == 0, done.stderr
    suite, tier = runs_of(done)
    assert suite.endswith(hidden) and "tests/gpu" not in suite and tier == shown
    assert make(checkout, "test", FAKE_GPUS="1", FAKE_STATUS="1").returncode == 2
    without = make(checkout, "test", FAKE_GPUS="0", FAKE_STATUS="1")
    assert without.returncode == 0 and runs_of(without) == [suite]
    assert without.stdout.splitlines()[-1].startswith("no GPU tests: torch sees no GPU here")
    assert runs_of(make(checkout, "test-gpu", FAKE_GPUS="1", FAKE_STATUS="0")) == [shown]


def test_no_gpu_test_at_all_is_an_error_unless_tests_were_chosen(checkout):
    none_collected = {"FAKE_GPUS": "1", "FAKE_STATUS": "5"}
    assert make(checkout, "test", **none_collected).returncode == 2
    chosen = make(checkout, "test", "PYTEST_ARGS=-k name", **none_collected)
    assert chosen.returncode == 0 and all("-k name |" in one for one in runs_of(chosen))
    assert make(checkout, "test", "PYTEST_ARGS=-k name", FAKE_GPUS="1", FAKE_STATUS="1").returncode == 2


GPU_TEST = """
import pytest


def test_plain():
    import torch

    assert not torch.cuda.is_available()


@pytest.mark.gpu
def test_on_a_gpu():
    assert False
"""


def run_pytest(repository: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """pytest on one test of each kind below a copy of the suite's own conftest."""
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(repository / name, folder / Path(name).name)
    (folder / "test_both.py").write_text(GPU_TEST)
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "test_both.py"]
    settings = {name: value for name, value in os.environ.items() if name not in HIDING} | environment
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)


def test_a_plain_pytest_hides_the_gpu_and_says_why_it_skips(repository, tmp_path):
    done = run_pytest(repository, tmp_path, CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 0 and "1 passed, 1 skipped" in done.stdout
    assert "needs a GPU, which these tests hide: make test-gpu" in done.stdout


@pytest.mark.parametrize(
    ("given", "seen"),
    [({}, "0"), ({"CUDA_VISIBLE_DEVICES": "2,3"}, "2"), ({"CUDA_VISIBLE_DEVICES": "GPU-5f2a"}, "GPU-5f2a")],
)
def test_gpu_tests_see_one_gpu(repository, given, seen):
    look = "import sys, types; sys.modules['torch'] = types.SimpleNamespace(set_num_threads=print)\n"
    look += "import conftest, os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    settings = {name: value for name, value in os.environ.items() if name not in HIDING} | given
    for wanted, switch in ((seen, {"SEGROBUST_TEST_GPU": "1"}), ("", {})):
        done = subprocess.run(
            [sys.executable, "-c", look],
            cwd=repository / "tests",
            env=settings | switch,
            capture_output=True,
            text=True,
        )
        assert done.stdout == f"1\n{wanted}\n", done.stderr


def test_gpu_tests_without_a_gpu_fail_in_one_line(repository, tmp_path):
    done = run_pytest(repository, tmp_path, CUDA_VISIBLE_DEVICES="", SEGROBUST_TEST_GPU="1")
    assert done.returncode == 4 and not done.stdout
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("ERROR: the GPU tests need a GPU, and torch sees none here")


def test_the_package_brings_its_configs_and_weights(repository):
    patterns = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    package = repository / "segrobust"
    brought = {file for pattern in patterns["segrobust"] for file in package.glob(pattern)}
    assert {file for file in (package / "zoo").iterdir() if file.is_file()} <= brought
    assert package / "zoo" / "demo_robust.py" in brought


def _pins(repository: Path) -> list[Requirement]:
    lines = (repository / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_constraints_are_names_and_versions_only(repository):
    for pin in _pins(repository):
        assert pin.url is None and not pin.extras
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
        assert canonicalize_name(pin.name) != "segrobust"


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_every_dependency_has_one_pin_within_its_bounds(repository, python, platform):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    place = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": platform}
    place["platform_machine"] = "x86_64"
    pins: dict[str, list[Requirement]] = {}
    for pin in _pins(repository):
        if pin.marker is None or Marker(str(pin.marker)).evaluate(place):
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    assert all(len(found) == 1 for found in pins.values())
    for wanted in map(Requirement, (*project["dependencies"], *project["optional-dependencies"]["dev"])):
        if wanted.marker is not None and not wanted.marker.evaluate(place):
            continue
        version = str(pins[canonicalize_name(wanted.name)][0].specifier).removeprefix("==")
        assert wanted.specifier.contains(version), (wanted, version)
