"""The documentation is built without a warning, its links lead somewhere, and its pages ask nobody for anything."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.snippets import ROOT

sphinx_build = pytest.importorskip("sphinx.cmd.build", reason="sphinx is not here (make docs needs Python >= 3.11)")
pytest.importorskip("furo")


class Page(HTMLParser):
    """Anchors and links of a page, and what it loads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if source := given.get("src") or (tag == "link" and given.get("href")):
            self.loads.append(source)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    path, out = list(sys.path), tmp_path_factory.mktemp("pages")
    try:
        options = ["-q", "-W", "--keep-going", "-n", "-b", "html", "-w", str(out / "warnings.txt")]
        status = sphinx_build.build_main([*options, str(ROOT / "docs"), str(out / "html")])
    finally:
        sys.path[:] = path
    assert status == 0, (out / "warnings.txt").read_text()
    return out / "html"


@pytest.fixture(scope="module")
def pages(built) -> dict[Path, Page]:
    return {file: Page(file) for file in sorted(built.rglob("*.html"))}


def test_every_page_is_there_and_in_the_contents(built, pages):
    names = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert {file.stem for file in pages} >= names
    reached = {unquote(urlsplit(link).path) for link in pages[built / "index.html"].links}
    assert {f"{name}.html" for name in names - {"index"}} <= reached


def test_links_lead_somewhere(built, pages):
    broken = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link == "#":
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            anchors = pages[target].anchors if target in pages else set()
            if not target.is_file() or (parts.fragment and target in pages and unquote(parts.fragment) not in anchors):
                broken.append(f"{file.name}: {link}")
    assert len(pages) > 15 and not broken


def test_nothing_is_loaded_from_elsewhere(pages):
    assert not [source for page in pages.values() for source in page.loads if urlsplit(source).netloc]


def test_tables_from_the_code_are_whole(built):
    from segrobust.attacks import ATTACKS
    from segrobust.datasets.protocols import PROTOCOLS
    from segrobust.models.published import PUBLISHED

    def shown(name: str) -> str:
        return (built / f"{name}.html").read_text(encoding="utf-8")

    assert all(f">{name}<" in shown("threat_models") for name in PROTOCOLS)
    assert all(name in shown("models") for name in PUBLISHED)
    assert "--share-device" in shown("options") and "--no-checks" in shown("options") and "fit_on" in shown("options")
    api = shown("api")
    assert all(
        f'id="{one.__module__}.{name}"' in api for name, one in ATTACKS.items() if one.__module__.startswith("seg")
    )
