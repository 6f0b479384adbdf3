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
chmod +x .venv/bin/ruff
"""


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(repository / name, tmp_path)
    (tmp_path / "uv").write_text(FAKE_UV)
    (tmp_path / "uv").chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = ["make", "--no-print-directory", *arguments, f"UV={folder / 'uv'}"]
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "VENV"))}
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)


def test_second_run_installs_nothing(checkout):
    first = make(checkout, "lint", f"PYTHON={sys.executable}")
    assert first.returncode == 0, first.stderr
    assert "--constraint constraints.txt --editable .[dev]" in first.stdout.replace('"', "")
    second = make(checkout, "lint", f"PYTHON={sys.executable}")
    assert "uv " not in second.stdout and "ruff check" in second.stdout
    (checkout / "constraints.txt").touch()
    assert "uv pip install" in make(checkout, "lint", f"PYTHON={sys.executable}").stdout


def test_too_old_a_python_is_told_in_words(checkout):
    done = make(checkout, "lint", "PYTHON=false")
    assert done.returncode == 2
    assert done.stderr.startswith("segrobust needs Python >= 3.10, and 'false' is not one")
    assert not (checkout / ".venv").exists()


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
