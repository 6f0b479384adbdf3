import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser

import pytest

from segrobust.core.errors import UserError
from segrobust.report import build_report
from segrobust.report.runs import facts, load_runs, run_labels, shorten_paths

HOSTILE = (
    "</style></title></textarea><script>alert(1)</script>\"'><img src=x onerror=alert(2)><svg onload=alert(3)>"
    "<a href='https://evil.example/x.js'>{{ 7 * 7 }}{% raw %}&amp;\x00\x1b]0;title\x07$\\frac{1}{2}$ ]]> --> \u202e"
)


class Page(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, tuple(name for name, _ in attributes)))
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_data(self, data):
        self.text.append(data)


def page_of(*folders):
    return build_report(folders).read_text(encoding="utf-8")


def test_it_shows_the_numbers_of_the_summary(make_run):
    folder = make_run()
    text = " ".join(Page(page_of(folder)).text)
    for record in json.loads((folder / "summary.json").read_text()):
        for metric in ("aAcc", "mIoU"):
            assert f"{record[metric]:.2f}" in text
            low, high = record["ci"][metric]
            assert f"{low:.1f}\u2013{high:.1f}" in text
        assert record["name"].replace("_", " ") in text
    for part in ("small net", "9f3c9f3c9f3c", "2026-11-24 00:12:05 UTC", "101 + 100", "202 + 200", "car", "steps=100"):
        assert part in text
    (entry,) = json.loads((folder / "images/grid.json").read_text())
    caption = (
        f"aAcc {entry['aAcc_before']:.2f} \u2192 {entry['aAcc_after']:.2f} ; perturbation \u00d7 63.7, largest 2/255"
    )
    assert caption in re.sub(r"\s+", " ", text)
    assert len([1 for tag, name, _ in Page(page_of(folder)).attributes if (tag, name) == ("img", "src")]) == 6


def test_several_runs_are_compared_in_one_file(make_run, tmp_path):
    folders = [make_run("standard"), make_run("robust")]
    path = build_report(folders, tmp_path / "new folder/compared.html")
    assert path == tmp_path / "new folder/compared.html"
    page = Page(path.read_text())
    assert "standard vs robust" in "".join(page.text)
    assert "Worst case of each run" in "".join(page.text)
    assert [tag for tag, _ in page.tags].count("svg") == 6
    assert build_report(folders) == folders[0] / "report.html"


def test_hostile_text_in_every_field_stays_text(make_run):
    """The page has the very same elements and attributes as with harmless words in the same fields."""
    calm = Page(page_of(*(make_run(name, text="word", norm="Lx") for name in ("a", "b"))))
    names = ("<img src=x onerror=alert(4)>", "\"'><script>alert(5)<")
    page = Page(page_of(*(make_run(name, text=HOSTILE, norm=HOSTILE) for name in names)))
    assert page.tags == calm.tags
    text = "".join(page.text)
    assert text.count("<script>alert(1)</script>") > 30
    assert text.count("{{ 7 * 7 }}") > 30
    assert all(text.count(name) > 4 for name in names)
    assert "\u202e" not in text  # would turn the numbers after it
    assert "\x1b" not in text


@pytest.mark.parametrize("text", [None, HOSTILE])
def test_nothing_is_loaded_and_nothing_runs(make_run, text):
    written = page_of(make_run(text=text))
    page = Page(written)
    (script,) = re.findall("<script>(.*?)</script>", written, flags=re.S)
    assert [names for tag, names in page.tags if tag == "script"] == [()]
    assert {"link", "iframe", "object", "embed", "form", "base"}.isdisjoint(tag for tag, _ in page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            assert value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "#")), value[:80]
        if name == "style":
            assert "url(" not in value.replace("url(#", "")
    policy = next(v for tag, _, v in page.attributes if tag == "meta" and "default-src" in v)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{digest}'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'"
    )


def test_embedded_data_is_the_json_it_was(make_run):
    folder = make_run(text=HOSTILE)
    (embedded,) = re.findall(r"<pre>(.*?)</pre>", page_of(folder), flags=re.S)
    (run,) = json.loads(html.unescape(embedded))
    wanted = json.loads((folder / "summary.json").read_text())
    assert [r["iou"] for r in run["records"]] == [r["iou"] for r in wanted]
    assert [r["mIoU"] for r in run["records"]] == [r["mIoU"] for r in wanted]
    assert run["facts"]["model"].startswith("</style>")


def test_runs_without_pictures_worst_case_or_names_are_shown_too(make_run):
    folder = make_run(attacks=("UniformNoise",), class_names=[], palette=[])
    (folder / "images/grid.json").unlink()
    page = Page(page_of(folder))
    assert "img" not in dict(page.tags)
    text = "".join(page.text)
    assert "UniformNoise" in text
    assert "class 2" in text


def test_minimum_norm_attacks_have_their_table(make_run):
    folder = make_run()
    records = json.loads((folder / "summary.json").read_text())
    alma = {
        "study": "attack",
        "name": "ALMAProx",
        "norm": "Linf",
        "found": 87.5,
        "apsr": 99.25,
        "median_distance": 0.5 / 255,
    }
    (folder / "summary.json").write_text(json.dumps([*records, {**records[0], **alma}]))
    text = "".join(Page(page_of(folder)).text)
    for part in ("Minimum-norm attacks", "ALMAProx", "0.5/255", "87.50", "99.25"):
        assert part in text
    (folder / "summary.json").write_text(json.dumps([*records, {**records[0], **alma, "median_distance": None}]))
    assert "not found" in "".join(Page(page_of(folder)).text)


def test_an_unsafe_load_is_said_at_the_top(make_run):
    assert "Unsafe load" not in page_of(make_run("a", checkpoint_trusted=False))
    assert "Unsafe load" in page_of(make_run("b", checkpoint_trusted=True))


def test_names_of_people_machines_and_folders_stay_at_home():
    private = {"host": "alices-box", "about": {"user": "alice"}, "windows": r"C:\Users\alice\z.pth"}
    public = {"versions": {"torch": "2.14"}, "url": "https://example.org/a/b", "empty": None, "hosted": True}
    options = ["evaluate", "~/secret/x.pth", "--eps", "1/255"]
    shown = facts(
        {"config": "/home/alice/net.py", "options": options, "list": [{"at": "/srv/a/y"}], **private, **public}
    )
    assert shown == {
        "config": "net.py", "versions.torch": "2.14", "options": "evaluate x.pth --eps 1/255",
        "list": '[{"at": "y"}]', "windows": "z.pth", "url": "https://example.org/a/b", "hosted": "true",
    }  # fmt: skip
    assert shorten_paths("8/255 and configs/net.py and /data/a b/c.pth") == "8/255 and configs/net.py and a b/c.pth"


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
    standard, robust = tmp_path / "standard/evaluation", tmp_path / "robust/evaluation"
    assert run_labels([standard, robust]) == ["standard", "robust"]
    assert run_labels([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert run_labels([standard, standard]) == ["evaluation (1)", "evaluation (2)"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("run.json", None, "no run.json"),
        ("summary.json", None, "no summary.json"),
        ("run.json", "{", "not valid JSON"),
        ("run.json", "[]", "identity and about"),
        ("run.json", '{"format": 2, "identity": {"palette": [[0, 0, 256]]}, "about": {}}', "palette as a list"),
        ("run.json", '{"format": 2, "identity": {"class_names": "road"}, "about": {}}', "class_names as a list"),
        ("summary.json", "{}", "expected a list of records"),
        ("summary.json", "[]", "expected a list of records"),
        ("summary.json", "[1]", "record 1: expected the name of a study and of what it did"),
        (
            "summary.json",
            '[{"study": "x", "name": "y", "aAcc": "<b>"}]',
            "1, aAcc: expected a number, got '<b>'",
        ),
        (
            "summary.json",
            '[{"study": "x", "name": "y", "aAcc": NaN}]',
            "record 1, aAcc: expected a number, got nan",
        ),
        ("summary.json", '[{"study": "x", "name": "y", "iou": [true]}]', "iou: expected a number, got True"),
        ("summary.json", '[{"study": "x", "name": "y", "iou": "x"}]', "record 1, iou: expected a list, got 'x'"),
        (
            "summary.json",
            '[{"study": "x", "name": "y", "median_distance": 1, "distances": "x"}]',
            "record 1, distances: expected a list, got 'x'",
        ),
        (
            "summary.json",
            '[{"study": "x", "name": "y", "median_distance": 1, "distances": ["x"]}]',
            "distances: expected a number",
        ),
        (
            "summary.json",
            '[{"study": "x", "name": "y", "median_distance": 1, "quantiles": {"25": true}}]',
            "quantiles: expected",
        ),
        ("summary.json", '[{"study": "x", "name": "y", "ci": {"aAcc": [1]}}]', "a lower and an upper bound"),
        (
            "summary.json",
            '[{"study": "x", "name": "y", "degradation": {"points": 1}}]',
            "degradation: expected a table",
        ),
        (
            "summary.json",
            '[{"study": "x", "name": "y", "regions": {"a": 1}}]',
            "regions: expected a list",
        ),
        (
            "summary.json",
            '[{"study": "x", "name": "y", "regions": [{"right": "x"}]}]',
            "regions: expected a number",
        ),
        ("conditions.json", "{}", "expected a list of conditions"),
        ("conditions.json", '[{"study": "attack"}]', "a condition without study or name"),
        ("conditions.json", '[{"study": "x", "name": "y", "eps": NaN}]', "a condition with eps nan"),
        ("conditions.json", '[{"study": "x", "name": "y", "fields": 3}]', "a condition with fields 3"),
        ("images.json", "[]", "expected the images of a run"),
        ("images.json", '{"images": []}', "expected the images of a run"),
        ("run.json", '{"format": 1, "identity": {}, "about": {}}', "not written by this version of segrobust"),
    ],
)
def test_foreign_or_damaged_folders_are_clear_errors(make_run, name, content, expected):
    folder = make_run()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError) as error:
        load_runs([folder])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_folders_and_unwritable_outputs_are_clear_errors(make_run, tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        build_report([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="at least one run folder"):
        build_report([])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose an --out"):
        build_report([make_run()], tmp_path / "file/report.html")
    with pytest.raises(UserError, match="cannot write"):
        build_report([make_run()], tmp_path)


def test_a_transfer_says_which_model_was_attacked(make_run):
    page = build_report([make_run(attacks=("CEPGD@other",), surrogate="other")]).read_text()
    assert "<b>Transfer.</b>" in page and "<b>other</b>" in page and "CEPGD@other" in page
    assert "<b>Transfer.</b>" not in build_report([make_run("plain")]).read_text()
