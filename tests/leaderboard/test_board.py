"""Entries are computed from rows, ranked by the lowest known score, and never by what somebody says."""

import json
import shutil

import numpy as np
import pytest

from segrobust.core.errors import UserError
from segrobust.core.rows import Condition
from segrobust.leaderboard.rules import OWN, RADII, STANDARD
from segrobust.leaderboard.submissions import Measured
from segrobust.leaderboard.verify import problems_of
from tests.leaderboard.conftest import ABOUT, counts, entries_of_images, summarised, with_checks

EPS = 4 / 255


def ranks(board):
    return {one["model"]["name"]: one["rank"] for group in board.table()["groups"] for one in group["entries"]}


def known(entry, eps=EPS, which="best_known"):
    return next(one[which] for one in entry["robust"] if one["eps"] == eps)


def images(right, names=range(2), eps=EPS):
    """As the measurement of submitted images leaves them."""
    entries = entries_of_images()
    pixels = np.zeros((3, 4, 4), dtype=np.float32)
    return [Measured(entries[n]["sha256"], eps, eps, counts(right), pixels) for n in names]


def test_an_entry_says_what_its_rows_say(make_run, board):
    (name,) = board.add([make_run()], {})
    entry = board.entry(name)
    right = np.arange(900, 900 - 32, -1)  # of the road per image
    road, car = right.sum() / (32 * 1500), 500 / (32 * 1000 - right.sum() + 32 * 1000) * 32
    assert entry["clean"]["mIoU"] == pytest.approx(100 * (road + car) / 2, abs=1e-3)
    assert entry["clean"]["aAcc"] == pytest.approx(100 * (right.sum() + 32 * 500) / (32 * 2000), abs=1e-3)
    low, high = known(entry)["ci"]["mIoU"]
    assert low < known(entry)["mIoU"] < high
    assert [one["radius"] for one in entry["robust"]] == ["1/255", "2/255", "4/255", "8/255"]
    assert (entry["division"], entry["not_ranked"], entry["data"]["images"]) == (STANDARD, "", 32)
    assert (entry["trust"]["level"], entry["model"]["parameters"]) == ("verified", 1234567)
    assert entry["command"] == "segrobust evaluate net.py net.safetensors --attack standard"
    assert entry["cost"]["backwards"] == 4 * 450
    assert [one["name"] for one in entry["attacks"]] == ["Standard"]
    assert entry["corruptions"] is entry["minimum_norm"] is None


def test_entries_are_ranked_by_the_worst_case_and_say_how_far_they_moved(make_run, board):
    board.add([make_run("standard", clean=950, robust=100, weights="aa")], {})
    board.add([make_run("robust", clean=800, robust=500, weights="bb")], {})
    board.add([make_run("same", clean=800, robust=500, weights="cc")], {})
    (group,) = board.table()["groups"]
    found = {one["model"]["name"]: (one["rank"], one["clean_rank"], one["rank_change"]) for one in group["entries"]}
    assert found == {"net bb": (1, 2, 1), "net cc": (1, 2, 1), "net aa": (3, 1, -2)}
    assert [one["model"]["name"] for one in group["entries"]] == ["net bb", "net cc", "net aa"]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"radii": RADII[:3]}, "no Standard of 450 steps at 8/255"),
        ({"attack": "CEPGD"}, "no Standard of 450 steps at 1/255"),
        ({"images": 31}, "31 images, of at least 32"),
        ({"data_recipe": "0" * 64}, "neither a named protocol nor"),
        ({"norm": "L2", "radii": (64 / 255,)}, "L2 has own protocols alone"),
    ],
)
def test_what_is_not_the_standard_protocol_has_a_division_of_its_own(make_run, board, changes, missing):
    (name,) = board.add([make_run(**changes)], {})
    entry = board.entry(name)
    assert entry["division"] == OWN
    assert entry["not_standard"].startswith(missing)
    assert not entry["not_ranked"]


def test_fewer_steps_or_weaker_members_are_not_the_standard_attack(make_run, board):
    from tests.leaderboard.conftest import STANDARD_FIELDS

    weaker = {**STANDARD_FIELDS, "attacks": STANDARD_FIELDS["attacks"][:1]}
    changed = [{**STANDARD_FIELDS, "steps": 449}, weaker, {**STANDARD_FIELDS, "steps": 450, "class_counts": [1, 2, 3]}]
    divisions = []
    for n, fields in enumerate(changed):
        (name,) = board.add([make_run(f"run {n}", weights=f"a{n}", fields=fields)], {})
        divisions.append(board.entry(name)["division"])
    assert divisions == [OWN, OWN, STANDARD]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"verdict": None}, "no trust checks"),
        ({"verdict": "fail"}, "not trustworthy"),
        ({"target": {"spec": "class:road"}}, "targeted"),
        ({"mask_sha256": "00"}, "part of the image"),
        ({"radii": (1 / 255,), "attack": "CEPGD"}, "no result at 4/255"),
        ({"norm": "L1", "radii": (12.0,)}, "no radius of L1"),
    ],
)
def test_what_cannot_be_believed_or_compared_is_listed_without_a_rank(make_run, board, changes, reason):
    board.add([make_run("good", weights="bb")], {})
    board.add([make_run("other", robust=900, **changes)], {})
    entry = next(one for one in board.entries() if one["model"]["name"] == "net aa")
    assert reason in entry["not_ranked"]
    assert ranks(board) == {"net bb": 1, "net aa": None}


def test_a_claim_is_shown_and_never_ranked(make_run, board):
    board.add([make_run("robust", robust=500, weights="bb")], {})
    run = make_run("boastful", robust=100)
    claims = {"claimed": [{"eps": EPS, "mIoU": 99.0, "aAcc": None, "attack": "ours"}], "claimed_clean": 99.9}
    board.add([run], {run: claims})
    entry = next(one for one in board.entries() if one["model"]["name"] == "net aa")
    assert known(entry, which="claimed")["mIoU"] == 99.0
    assert ranks(board) == {"net bb": 1, "net aa": 2}


def test_another_run_of_the_same_model_can_only_lower_its_entry(make_run, board):
    (first,) = board.add([make_run("first", robust=500)], {})
    before = known(board.entry(first))
    strong, weak = make_run("strong", robust=300, attack="CEPGD"), make_run("weak", robust=880, attack="SegPGD")
    assert board.add([weak], {}) == [first]
    assert known(board.entry(first)) == before
    assert board.add([strong], {}) == [first]
    entry = board.entry(first)
    assert known(entry)["mIoU"] < before["mIoU"] and known(entry)["aAcc"] < before["aAcc"]
    assert entry["division"] == STANDARD
    assert len(entry["evidence"]) == 3
    assert board.add([weak], {}) == [first] and len(board.entry(first)["evidence"]) == 3


def test_a_run_that_cannot_be_trusted_lowers_nothing(make_run, board):
    (name,) = board.add([make_run("first", robust=500)], {})
    before = known(board.entry(name))
    board.add([make_run("broken", robust=100, attack="CEPGD", verdict="fail")], {})
    entry = board.entry(name)
    assert known(entry) == before
    assert [one["counted"] for one in entry["evidence"]] == [True, False]


def test_rows_on_some_of_the_images_count_for_these(make_run, board):
    (name,) = board.add([make_run("first", robust=500)], {})
    before = known(board.entry(name))["mIoU"]
    other = list(reversed(entries_of_images(4)))
    board.add([make_run("few", robust=100, attack="CEPGD", image_entries=other)], {})
    entry = board.entry(name)
    assert entry["data"]["images"] == 32
    assert known(entry)["mIoU"] < before
    few = sum(100 - 20 - n for n in range(4)) + sum(500 - 20 - n for n in range(4, 32))
    assert known(entry)["aAcc"] == pytest.approx(100 * (few + 32 * 500) / (32 * 2000), abs=0.01)


def test_other_weights_or_other_data_make_an_entry_of_their_own(make_run, board):
    found = [
        board.add([make_run("a")], {}), board.add([make_run("b", weights="bb")], {}),
        board.add([make_run("c", data_recipe="11" * 32)], {}), board.add([make_run("d", norm="L2", radii=(0.5,))], {}),
    ]  # fmt: skip
    assert len({name for names in found for name in names}) == 4


def test_corruptions_and_minimum_norms_of_other_runs_join_the_entry(make_run, board):
    fog = Condition("corruption", "fog", severity=3)
    search = Condition("attack", "ALMAProx", "Linf", fields={"type": "ALMAProx"})
    corrupted = make_run("corrupted", radii=(), studies=[fog], robust=600)
    with pytest.raises(UserError, match="expected a run with an attack at some radius"):
        board.add([corrupted], {})
    nearest = make_run("nearest", radii=(), studies=[search], robust=600)
    (name,) = board.add([corrupted, nearest, make_run()], {})
    entry = board.entry(name)
    assert entry["corruptions"]["types"] == 1 and entry["corruptions"]["severities"] == [3]
    assert entry["minimum_norm"]["median"] == pytest.approx(16.5 / 255, rel=1e-3)
    assert (entry["minimum_norm"]["found"], entry["minimum_norm"]["attack"]) == (100.0, "ALMAProx")
    assert len(entry["evidence"]) == 3
    assert entry["cost"]["backwards"] == 5 * 450


@pytest.mark.parametrize("what", ["row", "summary", "checks", "missing row", "no summary", "labels", "negative"])
def test_an_unfinished_or_edited_run_is_refused_in_one_line(make_run, board, what):
    path = make_run()
    rows = path / "rows" / "rank-0.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    if what == "row":
        rows.write_text("".join([*lines[:-1], lines[-1].replace('"tp":[', '"tp":[1')]))
    elif what in ("labels", "negative"):
        row = json.loads(lines[40])
        row["counts"] = {"classes": [0, 1], "tp": [300, 600], "fp": [500, 600], "fn": [600, 500]}
        if what == "negative":
            row["counts"] = {"classes": [0, 1], "tp": [1100, 500], "fp": [500, -100], "fn": [-100, 500]}
        rows.write_text("".join([*lines[:40], json.dumps(row) + "\n", *lines[41:]]))
        from segrobust.runs.folder import RunFolder

        summarised(RunFolder(path))
        with_checks(RunFolder(path))
    elif what == "summary":
        summary = json.loads((path / "summary.json").read_text())
        summary[1]["mIoU"] += 1
        (path / "summary.json").write_text(json.dumps(summary))
    elif what == "checks":
        content = (path / "checks.json").read_text().replace("seen", "not seen")
        (path / "checks.json").write_text(content)
    elif what == "missing row":
        rows.write_text("".join(lines[:-1]))
    else:
        (path / "summary.json").unlink()
    with pytest.raises(UserError) as caught:
        board.add([path], {})
    assert "\n" not in str(caught.value)
    assert not board.entry_files() and not (board.path / "evidence").exists()


def test_names_of_machines_people_and_folders_stay_at_home(make_run, board):
    about = {"host": "node17", "user": "someone", "note": "in /home/someone/x.pth", "options": ABOUT["options"]}
    fields = {"type": "Mine", "map": "/home/someone/map.png"}
    path = make_run(about=about, attack="Mine", fields=fields, config="/home/someone/net.py")
    (name,) = board.add([path], {})
    kept = "".join(file.read_text() for file in board.path.rglob("*") if file.is_file())
    assert "someone" not in kept and "node17" not in kept
    assert board.entry(name)["trust"]["level"] == "verified"  # the digests are of what is kept
    board.build()
    assert not any(problems_of(board).values())


def test_attacked_images_lower_an_entry_and_change_the_ranks(make_run, board):
    (name,) = board.add([make_run("best", robust=500, weights="aa")], {})
    board.add([make_run("next", robust=499, weights="bb")], {})
    assert ranks(board) == {"net aa": 1, "net bb": 2}
    submission = board.submit_images(name, images(10, range(8)), {"by": "a third party", "date": "2026-11-25"})
    entry = board.entry(name)
    assert submission.number == 1 and known(entry, which="lowered_by") == 1
    assert known(entry)["mIoU"] < known(entry, which="measured")["mIoU"]
    assert known(entry, 2 / 255, "lowered_by") is None  # farther than that
    assert known(entry, 8 / 255, "lowered_by") == 1  # what is near enough there, too
    assert ranks(board) == {"net aa": 2, "net bb": 1}
    board.build()
    assert not any(problems_of(board).values())


def test_images_that_lower_nothing_are_not_kept(make_run, board):
    (name,) = board.add([make_run()], {})
    before = board.entry(name)
    assert board.submit_images(name, images(999), {"by": None, "date": None}) is None
    assert board.entry(name) == before
    assert not list((board.path / "submissions").rglob("*.json"))


def test_a_self_reported_lower_number_changes_no_rank(make_run, board):
    (name,) = board.add([make_run("best", robust=500, weights="aa")], {})
    board.add([make_run("next", robust=400, weights="bb")], {})
    before, ranked = board.entry(name), ranks(board)
    board.submit_rows(name, make_run("sent", robust=80, attack="CEPGD", weights="aa"), {"by": "a rival", "date": ""})
    entry = board.entry(name)
    assert [one["best_known"] for one in entry["robust"]] == [one["best_known"] for one in before["robust"]]
    (told,) = entry["submissions"]
    assert told["counted"] is False and told["lowest"]["4/255"] < known(entry)["mIoU"]
    assert ranks(board) == ranked
    board.build()
    assert not any(problems_of(board).values())


def test_rows_of_another_model_are_no_submission(make_run, board):
    (name,) = board.add([make_run()], {})
    with pytest.raises(UserError, match="weights and protocol"):
        board.submit_rows(name, make_run("other", weights="bb"), {})
    with pytest.raises(UserError, match="expected attacks under Linf"):
        board.submit_rows(name, make_run("elsewhere", image_entries=entries_of_images(32, "street")), {})


def test_a_new_run_keeps_what_others_have_lowered(make_run, board):
    (name,) = board.add([make_run()], {})
    board.submit_images(name, images(10), {"by": "x", "date": "y"})
    lowered = known(board.entry(name))
    board.add([make_run("again", robust=800, attack="CEPGD")], {})
    assert known(board.entry(name)) == lowered


def test_verify_finds_what_was_edited(make_run, board):
    run = make_run()
    (name,) = board.add([run], {})
    board.submit_images(name, images(10), {"by": "x", "date": "y"})
    board.build()
    entry = board.path / "entries" / f"{name}.json"
    (evidence,) = (board.path / "evidence").iterdir()
    submission = board.path / "submissions" / name / "1"

    def edited(file, old, new):
        copy = type(board)(board.path.with_name("copy"))
        shutil.rmtree(copy.path, ignore_errors=True)
        shutil.copytree(board.path, copy.path)
        place = copy.path / file.relative_to(board.path)
        text = place.read_text()
        assert old in text
        place.write_text(text.replace(old, new, 1))
        found = problems_of(copy)
        return " ".join(text for texts in found.values() for text in texts)

    assert problems_of(board) == {name: [], "leaderboard": []}
    best = json.dumps(known(board.entry(name))["mIoU"])
    assert "robust does not follow" in edited(entry, best, "99.1")
    assert "does not fit entry.schema.json" in edited(entry, '"format": 1', '"format": 7')
    assert "does not fit entry.schema.json" in edited(entry, '"id": "', '"more": 1, "id": "')
    assert "rank-0.jsonl was edited" in edited(evidence / "rows" / "rank-0.jsonl", '"tp":[900', '"tp":[901')
    assert "summary.json was edited" in edited(evidence / "summary.json", "mIoU", "miou")
    assert "measured.jsonl was edited" in edited(submission / "measured.jsonl", '"tp":[10', '"tp":[11')
    assert "does not follow from the entries" in edited(board.path / "leaderboard.json", '"rank": 1', '"rank": 2')
    assert "build it again" in edited(board.path / "index.html", "<h1>", "<h1>The ")


def test_rows_with_a_digest_that_fits_must_still_give_the_scores(make_run, board):
    """Who edits rows and the digests in the entry, too, is found by the checks' own digests."""
    (name,) = board.add([make_run()], {})
    board.build()
    (evidence,) = (board.path / "evidence").iterdir()
    rows, file = evidence / "rows" / "rank-0.jsonl", board.path / "entries" / f"{name}.json"
    rows.write_text(rows.read_text().replace('"tp":[900', '"tp":[899', 1).replace('"fn":[100', '"fn":[101', 1))
    from segrobust.leaderboard.evidence import files_of

    entry = json.loads(file.read_text())
    entry["evidence"][0]["files"] = files_of(evidence)
    file.write_text(json.dumps(entry))
    assert any(problems_of(board)[name])


def test_small_attacked_images_are_copied_and_large_ones_named(make_run, board, monkeypatch):
    path = make_run()
    folder = path / "adversarial" / "Standard_4-255"
    folder.mkdir(parents=True)
    np.save(folder / "000003.npy", np.zeros((3, 4, 4), dtype=np.float32))
    (name,) = board.add([path], {})
    assert board.entry(name)["evidence"][0]["attacked_images"]["stored"] is True
    (copied,) = (board.path / "evidence").glob("*/adversarial/Standard_4-255/000003.npy")
    board.build()
    assert not any(problems_of(board).values())
    copied.write_bytes(copied.read_bytes()[:-4] + b"\0\0\0\1")
    assert "000003.npy was edited" in problems_of(board)[name][0]
    monkeypatch.setattr("segrobust.leaderboard.evidence.MOST_BYTES", 100)
    board.add([path], {})
    assert board.entry(name)["evidence"][0]["attacked_images"]["stored"] is False
    assert not list((board.path / "evidence").glob("*/adversarial"))


def test_an_unknown_entry_and_an_empty_leaderboard_are_told(make_run, board):
    with pytest.raises(UserError, match="has no entries"):
        board.build()
    with pytest.raises(UserError, match="no leaderboard"):
        board.entry("x")
    (name,) = board.add([make_run()], {})
    with pytest.raises(UserError, match=f"did you mean {name}"):
        board.entry(name[:-1])
