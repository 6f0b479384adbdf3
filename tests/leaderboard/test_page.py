"""The page as a reader has it: in a browser, offline, by mouse and by keyboard, whatever names it holds."""

import json

import pytest

from segrobust.leaderboard import Board
from segrobust.leaderboard.page import render
from segrobust.leaderboard.schemas import violation
from tests.browser import WIDTHS, opened
from tests.leaderboard import conftest
from tests.leaderboard.test_board import images

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'><a href=javascript:alert(3)>{{ 7*7 }}\u202e-->"
)
NUMBERS = [("TsallisPGD-AT", 800, 520), ("standard", 950, 90), ("CE-PGD-AT", 820, 470)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A leaderboard of three ranked models, one of them lowered, and one that is not ranked."""
    root = tmp_path_factory.mktemp("leaderboard")
    make, board = conftest.make_run.__wrapped__(root), Board(root / "board")
    claims = {"claimed": [{"eps": 4 / 255, "mIoU": 60.0, "aAcc": None, "attack": "PGD-10"}], "paper": "Someone, 2026"}
    for n, (name, clean, robust) in enumerate(NUMBERS):
        run = make(name, clean=clean, robust=robust, weights=f"a{n}", model=name)
        board.add([run], {run: claims})
    board.add([make("unchecked", weights="bb", model="unchecked", verdict=None)], {})
    board.submit_images(board.entries()[0]["id"], images(10), {"by": "a third party", "date": "2026-11-25"})
    board.build()
    return board


@pytest.fixture(scope="module")
def hostile(made, tmp_path_factory):
    """The page with the same text in every field that holds text of others."""
    table = json.loads((made.path / "leaderboard.json").read_text())
    for group in table["groups"]:
        for entry in group["entries"]:
            for part in ("model", "told", "data", "trust", "cost"):
                entry[part] = {name: HOSTILE if isinstance(value, str) or (value is None and part == "told"
                               and name not in ("parameters", "claimed", "claimed_clean")) else value
                               for name, value in entry[part].items()}  # fmt: skip
            entry |= {"command": HOSTILE, "date": HOSTILE, "not_standard": HOSTILE}
            entry["not_ranked"] = entry["not_ranked"] and HOSTILE
            for one in (*entry["attacks"], *entry["evidence"], *entry["submissions"]):
                one |= {name: HOSTILE for name, value in one.items() if isinstance(value, str)}
        group["title"] = HOSTILE
    file = tmp_path_factory.mktemp("hostile") / "index.html"
    file.write_text(render(table), encoding="utf-8")
    return file


def names(page):
    return page.locator("section.group").first.locator("tbody tr:not([hidden]) th a").all_inner_texts()


def open_all(page):
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


@pytest.mark.parametrize("width", WIDTHS)
def test_it_asks_for_nothing_and_fits_every_screen(chromium, made, hostile, width):
    for file in (made.path / "index.html", hostile):
        seen = opened(chromium, file, width)
        open_all(seen.page)
        assert (seen.requests, seen.complaints, seen.overlaps(), seen.sideways()) == ([], [], [], [])
        seen.page.close()


def test_a_printed_page_has_all_columns_and_entries(chromium, made, hostile):
    for file in (made.path / "index.html", hostile):
        seen = opened(chromium, file, 1032)  # what the margins leave of A4 on its side
        seen.page.emulate_media(media="print")
        seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert seen.page.locator("details:not([open])").count() == 0
        assert not seen.page.locator("#search").is_visible()
        assert seen.page.evaluate("[...document.querySelectorAll('table')].every(one => one.offsetWidth <= 1032)")
        assert (seen.overlaps(), seen.sideways()) == ([], [])
        seen.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(chromium, made, scheme):
    for width in (WIDTHS[0], WIDTHS[-1]):
        seen = opened(chromium, made.path / "index.html", width, color_scheme=scheme)
        open_all(seen.page)
        assert seen.violations() == []
        seen.page.close()


def test_it_is_sorted_by_mouse_and_by_keyboard(chromium, made):
    page = opened(chromium, made.path / "index.html").page
    ranked = ["TsallisPGD-AT", "CE-PGD-AT", "standard", "unchecked"]
    assert names(page) == ranked
    page.get_by_role("button", name="Clean").click()
    assert names(page) == ["standard", "unchecked", "CE-PGD-AT", "TsallisPGD-AT"]
    assert page.get_by_role("columnheader", name="Clean").get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="Model").focus()
    page.keyboard.press("Enter")
    assert names(page) == ["CE-PGD-AT", "standard", "TsallisPGD-AT", "unchecked"]
    page.keyboard.press("Space")
    assert names(page) == ["unchecked", "TsallisPGD-AT", "standard", "CE-PGD-AT"]
    assert page.locator("[aria-sort]").count() == 1
    page.get_by_role("button", name="Rank", exact=True).click()
    assert names(page) == ranked
    page.get_by_role("button", name="Rank", exact=True).click()
    assert names(page) == ["standard", "CE-PGD-AT", "TsallisPGD-AT", "unchecked"]  # without a rank: last in any order
    page.close()


def test_it_is_searched_by_keyboard(chromium, made):
    page = opened(chromium, made.path / "index.html").page
    page.keyboard.press("Tab")
    page.keyboard.type("TSALLIS someone")
    assert names(page) == ["TsallisPGD-AT"]
    assert page.locator("#found").inner_text() == "1 of 4 entries"
    assert page.locator("details.entry:not([hidden])").count() == 1
    page.locator("#search").fill("nothing like it")
    assert page.locator("section.group:not([hidden])").count() == 0
    page.locator("#search").fill("")
    assert len(names(page)) == 4
    page.close()


def test_a_name_leads_to_all_about_the_entry(chromium, made):
    page = opened(chromium, made.path / "index.html").page
    page.get_by_role("link", name="CE-PGD-AT").focus()
    page.keyboard.press("Enter")
    entry = page.locator("details[open]")
    entry.wait_for()  # following a link within the page is not done when the key is up
    assert entry.count() == 1
    text = entry.inner_text()
    assert "a2" * 32 in text and "segrobust evaluate net.py" in text and "Someone, 2026" in text and "60.00" in text
    page.close()


def test_hostile_names_are_inert(chromium, hostile):
    seen = opened(chromium, hostile)
    assert seen.page.locator("script").count() == 2
    assert seen.page.locator("img, a:not([href^='#'])").count() == 0
    assert "<script>alert(1)</script>" in seen.page.locator("main").inner_text()
    for button in seen.page.locator("thead button").all():
        button.click()
    assert (seen.requests, seen.complaints) == ([], [])
    content = json.loads(seen.page.locator("#leaderboard").text_content())
    assert content["groups"][0]["title"] == HOSTILE
    seen.page.close()


def test_the_policy_names_the_only_script_and_style(made):
    text = (made.path / "index.html").read_text()
    policy = text.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    assert (
        policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy and "http" not in policy
    )


def test_marks_that_turn_the_direction_of_text_are_replaced(hostile):
    assert "\u202e" not in hostile.read_text(encoding="utf-8")


def test_the_same_entries_give_the_same_page(made):
    before = (made.path / "index.html").read_bytes()
    made.build()
    assert (made.path / "index.html").read_bytes() == before


def test_what_is_written_fits_the_published_schemas(made):
    table = json.loads((made.path / "leaderboard.json").read_text())
    assert violation("leaderboard", table) == ""
    entry = made.entries()[0]
    assert violation("entry", entry) == ""
    assert violation("entry", entry | {"more": 1}) and violation("entry", entry | {"robust": []})
    assert "rank" in violation("leaderboard", table | {"groups": [table["groups"][0] | {"entries": [{"id": "x"}]}]})
