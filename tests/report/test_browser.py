"""The report in a real browser: it asks for nothing, sorts, holds every name, and reads at every width."""

import pytest

from segrobust.core.rows import Condition
from segrobust.report import build_report
from segrobust.report.runs import load_runs
from tests.browser import WIDTHS, opened
from tests.report.conftest import extended, row
from tests.report.test_readings import sizes, trace, with_fields
from tests.report.test_report import HOSTILE
from tests.report.test_trust import store

HEADS = "table.sortable thead th"


def full(folder, text=None):
    """With everything that a page can show: distances, sizes, readings, convergence and checks."""
    alma = Condition("attack", text or "ALMAProx", "Linf", fields={"type": "ALMAProx"})
    extended(folder, [row(n, alma, 0, distance=(n + 1) / 255, found=n < 3) for n in range(4)])
    with_fields(folder, lambda record: {"sizes": sizes(40.0, 60.0, 80.0), "mIoU_images": 30.0})
    with_fields(folder, lambda record: trace(record) if record["eps"] else {})
    return store(folder, ("pass", "warn", "fail", "skipped", "info"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Places of finished pages by name, each written once."""
    return {}, tmp_path_factory.mktemp("pages")


@pytest.fixture
def page_of(pages, make_run):
    written, place = pages

    def make(name):
        if name not in written:
            made = {
                "one": lambda: [full(make_run("mine"))],
                "two": lambda: [full(make_run("standard")), full(make_run("robust"))],
                "hostile": lambda: [
                    full(make_run("<img src=x onerror=alert(4)>", HOSTILE), HOSTILE),
                    make_run("b", HOSTILE),
                ],
            }[name]()
            written[name] = build_report(made, place / f"{name}.html")
        return written[name]

    return make


def column(seen, number):
    return seen.page.locator(f"table.sortable tbody tr > :nth-child({number})").all_inner_texts()


@pytest.mark.parametrize("name", ["one", "two", "hostile"])
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
    seen = opened(chromium, page_of("two"), width, color_scheme=scheme)
    seen.page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert seen.violations() == []
    seen.page.close()


def test_hostile_names_are_inert(chromium, page_of):
    """A dialog or a request would be a complaint; names make no element, and no link that leaves the page."""
    seen = opened(chromium, page_of("hostile"))
    assert seen.page.locator("script").count() == 1
    assert seen.page.locator("img:not([src^='data:image/']), svg [onload], [onerror]").count() == 0
    assert seen.page.locator("a:not([href^='#'])").count() == 0
    assert "<script>alert(1)</script>" in seen.page.locator("main").inner_text()
    for head in range(seen.page.locator(f"{HEADS} button").count()):
        seen.page.locator(f"{HEADS} button").nth(head).click()
    assert seen.requests == [] and seen.complaints == []
    seen.page.close()


def test_sorting_by_mouse(chromium, page_of):
    seen = opened(chromium, page_of("one"))
    heads = seen.page.locator(HEADS)
    heads.nth(1).locator("button").click()
    accuracy = [float(text) for text in column(seen, 2)]
    assert accuracy == sorted(accuracy) and len(set(accuracy)) == 4
    assert heads.nth(1).get_attribute("aria-sort") == "ascending"
    heads.nth(1).locator("button").click()
    assert [float(text) for text in column(seen, 2)] == accuracy[::-1]
    assert heads.nth(1).get_attribute("aria-sort") == "descending"
    assert seen.page.locator("[aria-sort]").count() == 1
    heads.nth(0).locator("button").click()
    assert seen.page.locator("[aria-sort]").count() == 1 and heads.nth(0).get_attribute("aria-sort") == "ascending"
    seen.page.close()


def test_sorting_by_keyboard(chromium, page_of):
    """Distances sort as numbers, an image that was not broken is farthest."""
    seen = opened(chromium, page_of("one"))
    head = seen.page.locator(HEADS).last
    assert "distance" in head.inner_text()
    seen.page.locator(f"{HEADS} button").first.focus()
    for _ in range(seen.page.locator(f"{HEADS} button").count() - 1):
        seen.page.keyboard.press("Tab")
    seen.page.keyboard.press("Enter")
    last = seen.page.locator(HEADS).count()
    assert column(seen, last) == ["1/255", "2/255", "3/255", "\N{INFINITY}"]
    assert head.get_attribute("aria-sort") == "ascending"
    seen.page.keyboard.press("Space")
    assert column(seen, last) == ["\N{INFINITY}", "3/255", "2/255", "1/255"]
    seen.page.close()


def test_a_missing_value_comes_last_whichever_way(chromium, page_of, tmp_path):
    text = page_of("one").read_text()
    body = text.index("<tbody>", text.index('<table class="sortable">'))
    at = text.index("<td>", body)
    (tmp_path / "page.html").write_text(text[:at] + "<td>\N{EN DASH}" + text[text.index("<td>", at + 1) :])
    seen = opened(chromium, tmp_path / "page.html")
    for _ in range(2):
        seen.page.locator(HEADS).nth(1).locator("button").click()
        assert column(seen, 2)[-1] == "\N{EN DASH}"
    seen.page.close()


def test_without_scripts_everything_is_there(chromium, page_of):
    seen = opened(chromium, page_of("one"), java_script_enabled=False)
    assert seen.page.locator("table.sortable tbody tr").count() == 4
    assert seen.page.locator("button").count() == 0 and seen.page.locator("figure.curves svg").first.is_visible()
    seen.page.close()


def test_a_printed_page_cuts_nothing_off(chromium, page_of):
    seen = opened(chromium, page_of("two"), 1032)  # what the margins leave of A4 on its side
    seen.page.emulate_media(media="print")
    right = "[...document.querySelectorAll('main *')].map(one => one.getBoundingClientRect().right)"
    assert seen.page.evaluate(f"Math.max(...{right})") <= 1033
    assert seen.overlaps() == []
    seen.page.close()


def test_contents_lead_to_their_sections(chromium, page_of):
    seen = opened(chromium, page_of("one"))
    links = seen.page.locator("nav a").all()
    titles = seen.page.locator("main h2").all_inner_texts()
    assert [link.inner_text() for link in links] == titles and len(titles) > 8
    links[-1].click()
    assert seen.page.locator("h2:target").inner_text() == titles[-1]
    seen.page.close()


def test_interactive_curves_are_drawn_and_quiet(chromium, make_run, tmp_path):
    pytest.importorskip("plotly", reason="needs plotly: pip install 'segrobust[interactive]'")
    for text in (None, HOSTILE):
        folder = make_run("calm" if text is None else "hostile", text)
        (run,) = load_runs([folder])
        seen = opened(chromium, build_report([folder], tmp_path / "page.html", interactive=True))
        assert seen.page.locator(".plot .scatterlayer .trace").count() == 2 * len(run.attack_names(run.norms[0]))
        assert not seen.page.locator("figure.curves > svg").first.is_visible()
        assert seen.page.locator(".plot a").count() == 0
        if text:
            assert "</style></title>" in "".join(seen.page.locator(".plot .legendtext").all_text_contents())
        seen.page.emulate_media(media="print")
        assert seen.page.locator("figure.curves > svg").first.is_visible()
        assert seen.requests == [] and seen.complaints == []
        seen.page.close()


BAD = """<!DOCTYPE html><title>bad</title><body style="margin:0"><img src="x.png"><p style="color:#ddd">pale</p>
<div style="overflow-x:auto;width:200px"><p style="width:900px">wide wide</p></div>
<p style="position:absolute;top:0">one</p><p style="position:absolute;top:3px">two</p>
<script>console.error("no")</script>"""


def test_these_tests_would_see_it(chromium, tmp_path):
    (tmp_path / "bad.html").write_text(BAD)
    seen = opened(chromium, tmp_path / "bad.html")
    assert seen.requests and any("no" in one for one in seen.complaints)
    assert seen.sideways() == ["DIV."] and "one | two" in seen.overlaps()
    assert any(one.startswith("color-contrast") for one in seen.violations())
    seen.page.close()
