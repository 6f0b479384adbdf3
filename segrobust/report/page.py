"""What every page of a report is: one file that loads nothing and escapes all that it was given.

Its content security policy names our own scripts by their digests. Without them all is there to read.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from segrobust.core.files import clear_io_errors, replace_file
from segrobust.report.texts import printable

TEMPLATES = Path(__file__).parent / "templates"


def rendered(template: str, filters: Iterable[Callable], scripts: Sequence[str] = (), **values: Any) -> str:
    """The page that a template makes of the values.

    Args:
        filters: functions that the template calls by their names.
        scripts: texts of our own, run after the one that sorts tables.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {made.__name__: made for made in filters}
    scripts = [(TEMPLATES / "sort.js").read_text(encoding="utf-8"), *scripts]
    return environment.get_template(template).render(
        contents=Contents(),
        scripts=[Markup(script) for script in scripts],  # noqa: S704  (ours, and plotly's)
        digests=" ".join(f"'{_digest(script)}'" for script in scripts),
        **values,
    )


def write_page(path: Path, page: str) -> Path:
    """Write the page as a whole or not at all; UserError: the file cannot be written."""
    with clear_io_errors(f"create {path.parent}", "choose an --out that can be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, page.encode())
    return path


class Contents:
    """The headings of the page, in order, as templates make them: ``{{ contents("Cost") }}``."""

    def __init__(self) -> None:
        self._titles: list[str] = []

    def __call__(self, title: str) -> Markup:
        """A heading that the table of contents leads to."""
        self._titles.append(title)
        return Markup('<h2 id="section-{}">{}</h2>').format(len(self._titles), escape(printable(title)))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Anchor and title of each."""
        return ((f"section-{number}", title) for number, title in enumerate(self._titles, start=1))


def _digest(script: str) -> str:
    """As a content security policy names an inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
