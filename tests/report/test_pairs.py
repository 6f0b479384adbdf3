"""Two runs over the same images, beside each other: what the report says of their difference, and when it says none."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace

import pytest

from segrobust.analysis.statistics import paired_difference
from segrobust.core.rows import Condition
from segrobust.report import build_report
from segrobust.report.pairs import _changes, paired_runs, places
from segrobust.report.runs import load_runs
from segrobust.runs.folder import RunFolder
from tests.report.conftest import extended, row


def test_clean_and_worst_case_of_every_pair(make_run):
    folders = [make_run("standard"), make_run("robust"), make_run("mine", radii=(4 / 255, 8 / 255))]
    pairs = paired_runs(load_runs(folders))
    assert [(pair.first, pair.second) for pair in pairs] == [
        ("standard", "robust"),
        ("standard", "mine"),
        ("robust", "mine"),
    ]
    at = [[(one.norm, one.eps) for one in pair.differences] for pair in pairs]
    both, common = ([(None, None), *(("Linf", eps) for eps in radii)] for radii in ((1 / 255, 4 / 255), (4 / 255,)))
    assert at == [both, common, common]
    assert all(
        one.scores["aAcc"] == [0, 0, 0] for pair in pairs for one in pair.differences[:1]
    )  # alike on clean images
    weak, strong = (folder_rows(folder) for folder in folders[:2])
    for condition in pairs[0].differences[1:]:
        # TsallisPGD is the strongest of the made-up attacks at every radius, and a larger radius stronger
        wanted = "TsallisPGD", condition.eps
        chosen = [[r for r in rows if (r.condition.name, r.condition.eps) == wanted] for rows in (weak, strong)]
        expected = paired_difference(*chosen, 3)
        for name, values in condition.scores.items():
            assert values == pytest.approx(expected[name], abs=1e-4) and values[1] > 0


def folder_rows(folder):
    return RunFolder(folder).rows()


def test_images_belong_together_by_name_and_digest_whatever_their_order(make_run):
    """The second run has the same images, its first one at the end: as if the start that made it had given it last."""
    folders = [make_run(name) for name in ("standard", "robust")]
    (straight,) = paired_runs(load_runs(folders))
    change(folders[1] / "images.json", lambda content: content["images"].append(content["images"].pop(0)))
    (pair,) = paired_runs(load_runs(folders))
    first, second = ([r for r in folder_rows(folder) if r.condition.study == "clean"] for folder in folders)
    expected = paired_difference(first, [replace(r, image=(r.image + 1) % 4) for r in second], 3)
    for name, values in pair.differences[0].scores.items():
        assert values == pytest.approx(expected[name], abs=1e-4)
    assert straight.differences[0].scores["aAcc"] == [0, 0, 0] and pair.differences[0].scores["aAcc"][2] > 0


def test_an_image_that_is_there_twice_belongs_to_one_of_the_two():
    a, b, other = ("a", "1"), ("b", "2"), ("a", "3")
    assert places([a, a, b, other], [other, b, a, a]) == [3, 2, 0, 1]


def test_conditions_that_a_run_did_not_finish_are_compared_nowhere(make_run):
    """A later start of the second run was killed after one image at a radius that would be its worst case."""
    folders = [make_run(name) for name in ("standard", "robust")]
    before = paired_runs(load_runs(folders))
    unfinished = Condition("attack", "SEA", "Linf", 1 / 255, fields={"type": "SEA"})
    extended(folders[1], [row(0, unfinished, 0)])
    assert paired_runs(load_runs(folders)) == before
    assert "SEA" not in {record["name"] for run in load_runs(folders) for record in run.records}
    extended(folders[1], [row(image, unfinished, 0) for image in (1, 2, 3)])
    (pair,) = paired_runs(load_runs(folders))
    assert pair.differences[1].scores["aAcc"][0] < before[0].differences[1].scores["aAcc"][0]


def test_the_page_shows_the_numbers_and_embeds_them(make_run):
    folders = [make_run("standard"), make_run("robust")]
    (pair,) = paired_runs(load_runs(folders))
    page = build_report(folders).read_text()
    text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", page)))
    assert "Paired differences" in text and "robust \N{MINUS SIGN} standard" in text
    for one in pair.differences:
        for middle, low, high in one.scores.values():
            assert f"{middle:+.2f} {low:+.1f} to {high:+.1f}" in text
    (embedded,) = re.findall(r"<pre>(.*?)</pre>", page, flags=re.S)
    first, second = json.loads(html.unescape(embedded))
    assert "paired" not in first
    assert [one["minus"] for one in second["paired"]] == ["standard"]
    assert second["paired"][0]["differences"][2]["scores"]["mIoU"] == pair.differences[2].scores["mIoU"]
    assert "Paired differences" not in build_report(folders[:1]).read_text()


def test_the_images_that_gain_and_lose_most(make_run):
    """At the largest radius image 1 stays as it is; the attack there is the strongest on every image of both."""
    folders = [make_run("standard"), make_run("robust")]
    both = Condition("attack", "SEA", "Linf", 8 / 255, fields={"type": "SEA"})
    extended(folders[0], [row(image, both, 50) for image in range(4)])
    extended(folders[1], [row(0, both, 180), row(1, both, 50), row(2, both, 70), row(3, both, 20)])
    for folder in folders:
        change(
            folder / "images.json",
            lambda content: [e.update(name=f"/a/{n}.png") for n, e in enumerate(content["images"])],
        )
    (pair,) = paired_runs(load_runs(folders))
    assert (pair.differences[-1].norm, pair.differences[-1].eps) == ("Linf", 8 / 255)
    whole = 1510
    expected = [("0.png", 50, 180), ("2.png", 50, 70), ("3.png", 50, 20)]
    assert [name for name, *_ in pair.changes] == [name for name, *_ in expected]
    for (_, *scores), (_, *rights) in zip(pair.changes, expected, strict=True):
        assert scores == pytest.approx([100 * (right + 500) / whole for right in rights])
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", build_report(folders).read_text())).split())
    assert f"0.png {100 * 550 / whole:.2f} {100 * 680 / whole:.2f} {100 * 130 / whole:+.2f}" in text


def test_at_most_five_images_gain_and_five_lose():
    clean = Condition("clean", "clean")
    first = [row(image, clean, 500) for image in range(20)]
    second = [row(image, clean, 500 + 10 * (image - 10)) for image in range(20)]
    found = _changes([str(n) for n in range(20)], first, second)
    assert [one.name for one in found] == ["19", "18", "17", "16", "15", "4", "3", "2", "1", "0"]


def other_data(folder):
    change(folder / "run.json", lambda run: run["identity"].update(data_recipe="other"))


def other_images(folder):
    change(folder / "images.json", lambda content: [entry.update(name="y.png") for entry in content["images"]])


def other_pixels(folder):
    change(folder / "images.json", lambda content: content["images"][2].update(sha256="other"))


def other_labels(folder):
    file = folder / "rows/rank-0.jsonl"
    file.write_text(file.read_text().replace("[10,", "[11,").replace(", 10]", ", 12]").replace(",10]", ",12]"))


def no_rows(folder):
    (folder / "rows/rank-0.jsonl").unlink()


def more_classes(folder):
    change(folder / "summary.json", lambda records: [record["iou"].append(None) for record in records])


def change(path, by):
    content = json.loads(path.read_text())
    by(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (other_data, "data that are loaded in another way"),
        (other_images, "4 and 4 images that are not the same ones"),
        (other_pixels, "4 and 4 images that are not the same ones"),
        (other_labels, "the same images with other labels"),
        (no_rows, "no rows in the folder of robust"),
        (more_classes, "another number of classes"),
    ],
)
def test_runs_that_cannot_be_paired_are_said_not_to_be(make_run, damage, reason):
    folders = [make_run(name, data_recipe="same") for name in ("standard", "robust")]
    assert paired_runs(load_runs(folders))[0].reason == ""
    damage(folders[1])
    (pair,) = paired_runs(load_runs(folders))
    assert pair.reason == reason and pair.differences == ()
    text = " ".join(re.sub(r"<[^>]*>", "", build_report(folders).read_text()).split())
    assert f"robust and standard are not paired: {reason}." in text
