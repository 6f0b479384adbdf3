"""One Chromium for all tests that look at pages as a reader does, and what they ask of a page.

The fixture ``chromium`` of ``tests/conftest.py`` starts it, so that a session has one however many files use it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (375, 768, 1280)
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")

# Elements that reach beyond their box, and scroll boxes: "sideways" where something else than a box of its own scrolls.
_SIDEWAYS = """
() => {
  const found = [], root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) found.push("the page");
  for (const one of document.body.querySelectorAll("*")) {
    if (one.scrollWidth <= one.clientWidth + 1 || !/auto|scroll/.test(getComputedStyle(one).overflowX)) continue;
    if (!one.matches("[tabindex='0']") || !one.querySelector(":scope > table, :scope > pre"))
      found.push(one.tagName + "." + one.className);
  }
  return found;
}
"""
# Texts that stand on each other: rectangles of lines of text, cut by the boxes that scroll or hide them.
_OVERLAPS = """
() => {
  const lines = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const owner = node.parentElement;
    if (!node.data.trim() || !owner.checkVisibility({ visibilityProperty: true })) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      let [left, top, right, bottom] = [rect.left, rect.top, rect.right, rect.bottom];
      for (let box = owner; box; box = box.parentElement) {
        if (box instanceof SVGElement || getComputedStyle(box).overflow === "visible") continue;
        const edge = box.getBoundingClientRect();
        [left, top] = [Math.max(left, edge.left), Math.max(top, edge.top)];
        [right, bottom] = [Math.min(right, edge.right), Math.min(bottom, edge.bottom)];
      }
      if (right - left > 2 && bottom - top > 2) lines.push({ left, top, right, bottom, owner, text: node.data.trim() });
    }
  }
  lines.sort((a, b) => a.top - b.top);
  const found = [];
  lines.forEach((a, at) => {
    for (let next = at + 1; next < lines.length && lines[next].top < a.bottom - 4; next++) {
      const b = lines[next];
      if (a.owner !== b.owner && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2)
        found.push(a.text.slice(0, 40) + " | " + b.text.slice(0, 40));
    }
  });
  return found;
}
"""


@contextmanager
def started() -> Iterator[Any]:
    """A started browser; skips where there is none, or no playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'segrobust[dev]'")
    found = os.environ.get("SEGROBUST_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if not found:
        pytest.skip("needs Chromium on the PATH, or its place in SEGROBUST_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(_QUIET))
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page in the browser, with the requests for anything but itself and what the console said."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def sideways(self) -> list[str]:
        """What scrolls sideways without being a box around a table or a preformatted text."""
        return self.page.evaluate(_SIDEWAYS)

    def overlaps(self) -> list[str]:
        """Pairs of texts that stand on each other."""
        return self.page.evaluate(_OVERLAPS)

    def violations(self) -> list[str]:
        """What axe-core finds: contrast, names, keyboard; skips where it is not installed."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
        found = axe.Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]} ({len(one['nodes'])})" for one in found]


def opened(browser: Any, file: Path, width: int = 1280, **options: Any) -> Opened:
    """The file in a new page of that width; ``options`` are those of playwright's ``new_page``."""
    seen = Opened(browser.new_page(viewport={"width": width, "height": 900}, **options))
    own = file.resolve().as_uri()
    seen.page.on("request", lambda one: None if one.url.split("#")[0] == own else seen.requests.append(one.url))
    seen.page.on("console", lambda one: seen.complaints.append(one.text))
    seen.page.on("pageerror", lambda one: seen.complaints.append(str(one)))
    seen.page.on("dialog", lambda one: (seen.complaints.append(f"dialog: {one.message}"), one.dismiss()))
    seen.page.goto(own)
    return seen
