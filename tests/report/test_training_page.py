"""The page of trainings in a real browser: it asks for nothing, sorts, holds every name, and reads at every width."""

from __future__ import annotations

import json

import pytest

from segrobust.report.training_page import build_training_report
from tests.browser import WIDTHS, opened
from tests.report.test_report import HOSTILE
from tests.report.trainings import LOG, RISING, picture, told, training_line


@pytest.fixture(scope="module")
def pages():
    return {}


@pytest.fixture
def page_of(pages, make_training, tmp_path_factory):
    """Places of pages of one training, of two, and of one whose every text is hostile."""

    def write(name):
        if name == "hostile":
            shown = HOSTILE.replace("/", "")
            config = (
                f"custom_hooks = [dict(type='AdversarialTrainingHook', attack=dict(type={HOSTILE!r}, eps={HOSTILE!r}))]"
            )
            log = told("01:00:00", f"catastrophic overfitting {HOSTILE}".replace("\n", " "), "WARNING")
            lines = [*RISING, training_line(400, 1.0, **{HOSTILE: 1.0})]
            made = [make_training(*lines, name=shown[:100] + "x", log=log, config=config)]
            (made[0] / "pictures").mkdir()
            (made[0] / "pictures" / "classes.json").write_text(json.dumps([[HOSTILE, [1, 2, 3]]]))
            picture(made[0], 300)
        else:
            made = [make_training(*RISING, name=one, log=LOG, checkpoints=("iter_200.pth",)) for one in name.split("+")]
            for folder in made:
                for iteration in (100, 200, 300):
                    picture(folder, iteration, side=60)
        return build_training_report(made, tmp_path_factory.mktemp("page") / "page.html")

    def make(name):
        if name not in pages:
            pages[name] = write(name)
        return pages[name]

    return make


@pytest.mark.parametrize("name", ["one", "one+two", "hostile"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_asks_for_nothing_and_reads_at_every_width(chromium, page_of, name, width):
    seen = opened(chromium, page_of(name), width)
    seen.page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert seen.sideways() == [] and seen.overlaps() == []
    assert seen.requests == [] and seen.complaints == []
    seen.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDTHS[0], WIDTHS[-1]])
def test_contrast_names_and_keyboard(chromium, page_of, scheme, width):
    seen = opened(chromium, page_of("one+two"), width, color_scheme=scheme)
    seen.page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert seen.violations() == []
    seen.page.close()


def test_hostile_names_are_inert(chromium, page_of):
    seen = opened(chromium, page_of("hostile"))
    assert seen.page.locator("script").count() == 1
    assert seen.page.locator("img:not([src^='data:image/']), svg [onload], [onerror]").count() == 0
    assert seen.page.locator("a:not([href^='#'])").count() == 0
    assert "<script>alert(1)" in seen.page.locator("main").inner_text()
    assert seen.requests == [] and seen.complaints == []
    seen.page.close()


def test_validations_sort_and_contents_lead_to_their_sections(chromium, page_of):
    seen = opened(chromium, page_of("one"))
    seen.page.locator("table.sortable thead button").nth(2).click()
    assert seen.page.locator("table.sortable tbody th").all_inner_texts() == ["100", "300", "200"]
    titles = seen.page.locator("main h2").all_inner_texts()
    assert [link.inner_text() for link in seen.page.locator("nav a").all()] == titles and len(titles) == 7
    seen.page.close()
