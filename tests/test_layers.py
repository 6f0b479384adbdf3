"""The house: imports point down the list of floors, lazy ones included, and no files import each other in a circle."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "segrobust"
FLOORS = (  # from the top; a name on a floor may import those below it, and its own
    ("__main__",),
    ("cli",),
    ("parsers",),
    ("commands",),
    ("leaderboard",),
    ("report",),
    ("checks",),
    ("hooks",),
    ("recipes",),
    ("runs",),
    ("studies",),
    ("analysis",),
    ("attacks",),
    ("models",),
    ("datasets",),
    ("core",),
)
WITHOUT_TORCH = {
    "analysis",
    "core.rows",
    "core.errors",
    "core.units",
    "cli",
    "parsers",
    "runs.settings",
    "models.shipped",
    "models.published",
}


def module_of(file: Path) -> str:
    """``attacks.base``; of a package's ``__init__.py`` the package."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {  # without the configs of the zoo
    module_of(file): file for file in sorted(PACKAGE.rglob("*.py")) if "zoo" not in file.parts
}


def named(node: ast.AST) -> Iterator[str]:
    """Modules of the package that a statement imports, by a string too, below ``segrobust``."""
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "relative imports hide where an arrow points"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name if name.removeprefix("segrobust.") in MODULES else node.module for name in names)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.Constant) and node.value in {f"segrobust.{module}" for module in MODULES if module}:
        yield node.value


def arrows() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module, file in MODULES.items():
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        names = {name for node in nodes for name in named(node) if name.split(".")[0] == "segrobust"}
        found[module] = {name.removeprefix("segrobust").removeprefix(".") for name in names} - {module}
    return found


ARROWS = arrows()


def floor(module: str) -> int:
    (found,) = [number for number, names in enumerate(FLOORS) if module.split(".")[0] in names]
    return found


def test_every_file_stands_on_a_floor():
    rooms = {module.split(".")[0] for module in MODULES if module}
    assert rooms == {name for names in FLOORS for name in names}


def test_no_arrow_points_up():
    up = [
        f"{module} -> {target or 'segrobust'}"
        for module, targets in ARROWS.items()
        for target in sorted(targets)
        if module and (not target or floor(target) < floor(module))  # the package's own __init__ stands above all
    ]
    assert not up


def reachable(module: str) -> set[str]:
    seen: set[str] = set()
    todo = [module]
    while todo:
        for target in ARROWS.get(todo.pop(), ()):
            if target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


def test_no_circle():
    circles = [module for module in ARROWS if module in reachable(module)]
    assert not circles


@pytest.mark.parametrize("name", sorted(WITHOUT_TORCH))
def test_what_computes_from_rows_and_what_parses_needs_no_torch(name):
    """Torch may be imported on use, inside a function, but not with the module."""
    for module in (one for one in MODULES if one == name or one.startswith(f"{name}.")):
        at_once = defaultdict(list)
        for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for one in names:
                at_once[one.split(".")[0]].append(module)
        assert "torch" not in at_once
