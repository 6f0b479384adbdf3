import json
import logging
import math
import multiprocessing
import os
import re
import resource

import pytest

from segrobust.core.errors import UserError
from segrobust.core.files import replace_file
from segrobust.core.rows import check_complete
from segrobust.runs.differences import differences
from tests.runs.small_run import CLEAN, FAR, IDENTITY, NEAR, batch, begin, changed

OLD = (
    b'{"format": 1, "identity": {}, "about": {}}',
    "not written by this version of segrobust; start anew with --fresh",
)


def test_rows_of_all_ranks_come_back_sorted(folder):
    with folder.writer(1) as second, folder.writer(0) as first:
        second.append(batch(4, FAR), [1.0, 2.0, 3.0, 4.0])
        first.append(batch(0, FAR))
        second.append(batch(0, CLEAN, size=1))
        first.append(batch(0))
    keys = [(row.condition, row.image) for row in folder.rows()]
    assert keys == [(CLEAN, 0), *((one, i) for one, n in ((NEAR, 4), (FAR, 8)) for i in range(n))]
    assert folder.rows()[1] == batch(0)[0]
    assert folder.complete_rows() == batch(0, FAR, size=8)
    assert [t["seconds"] for t in folder.timings()] == [1.0, 2.0, 3.0, 4.0]
    assert folder.timings()[0] == {"condition": FAR.id, "image": 4, "seconds": 1.0}


def test_files_are_strict_json_even_for_infinite_distances(folder):
    (row, *_), weird = batch(0), 'a"\n\u2028\udc80<b>'
    with folder.writer() as writer:
        writer.append([changed(row, distance=math.inf, found=False, text=weird)])
        with pytest.raises(ValueError, match="JSON"):
            writer.append([changed(row, image=1, distance=math.nan)])
    (line,) = (folder.path / "rows/rank-0.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["extra"]["distance"] is None
    (stored,) = folder.rows()
    assert (stored.extra["distance"], stored.extra["text"]) == (math.inf, weird)


def test_every_way_to_tear_the_last_batch_is_survived(folder):
    with folder.writer() as writer:
        writer.append(batch(0))
        path = folder.path / "rows/rank-0.jsonl"
        durable = path.stat().st_size
        writer.append(batch(4, size=1))
    whole = path.read_bytes()
    for length in range(durable, len(whole)):
        for tail in (b"", b"\0\0\0"):
            path.write_bytes(whole[:length] + tail)
            assert folder.rows() == batch(0)
    with folder.writer() as writer:
        writer.append(batch(4, size=1))
    assert path.read_bytes() == whole


def test_a_row_that_was_already_stored_is_kept(folder, caplog):
    with folder.writer() as writer:
        writer.append(batch(0)[:2], [1.0, 1.0])  # what a kill left of a batch
    again = batch(0)
    with folder.writer() as writer, caplog.at_level(logging.WARNING):
        writer.append(again, [2.0] * 4)
        assert not caplog.records
        writer.append([changed(again[0], counts={"tp": [77, 3]})])
    assert folder.rows() == batch(0)
    assert [t["seconds"] for t in folder.timings()] == [1.0, 1.0, 2.0, 2.0]
    assert "image 0 under CEPGD 25.5/255" in caplog.text


@pytest.mark.parametrize(
    ("change", "what"),
    [({}, "the same"), ({"counts": {"fp": [1, 1]}, "distance": 0.5}, "they disagree on fp, distance")],
)
def test_doubled_rows_are_refused(folder, change, what):
    """No kill leaves any: only two runs at once, or files copied together."""
    with folder.writer(0) as first, folder.writer(1) as second:
        first.append(batch(0))
        second.append(batch(4))
        assert [row.image for row in folder.rows()] == list(range(8))
        second.append([changed(batch(0)[1], **change)])
    with pytest.raises(UserError) as error:
        folder.rows()
    expected = rf"has image 1 under CEPGD 25.5/255 twice, in rank-0.jsonl and in rank-1.jsonl \({what}\); start anew"
    assert re.search(expected, str(error.value)) and "\n" not in str(error.value)


def test_no_row_that_was_asked_for_may_be_missing(tmp_path):
    rows = [*batch(0), *batch(0, CLEAN)]
    check_complete(rows, [CLEAN, NEAR], 4, tmp_path)
    with pytest.raises(UserError, match=r"2 of 12 rows are missing, .* image 4 under clean; do all"):
        check_complete([*rows, *batch(4, size=2)], [CLEAN, NEAR], 6, tmp_path)


def test_damage_that_no_kill_can_cause_is_an_error(folder):
    with folder.writer() as writer:
        writer.append(batch(0))
    path = folder.path / "rows/rank-0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for damage in (b'{"image": 1,\n', b"[1]\n", b"\xff\xfe\n", b"\n"):
        path.write_bytes(lines[0] + damage + lines[2])
        with pytest.raises(UserError, match="line 2"):
            folder.rows()
    path.write_bytes(lines[0] + b'{"image": 3}\n')
    with pytest.raises(UserError, match="a row without condition, counts, extra"):
        folder.rows()
    path.write_bytes(lines[0].replace(NEAR.id.encode(), b"attack-other"))
    with pytest.raises(UserError, match="a row of an unknown condition 'attack-other'; start anew"):
        folder.rows()
    path.write_bytes(lines[0].replace(b'"tp":[0,3]', b'"tp":[0]'))
    with pytest.raises(UserError, match="image 0 has counts of different lengths"):
        folder.rows()
    for old, new in ((b'"condition":"', b'"condition":["'), (b'"counts":{', b'"counts":[{')):
        closed = {b'"condition":"': (b'","counts"', b'"],"counts"'), b'"counts":{': (b'},"extra"', b'}],"extra"')}[old]
        path.write_bytes(lines[0].replace(old, new).replace(*closed))
        with pytest.raises(UserError, match=r"a row without (condition|counts); start anew"):
            folder.rows()
    images = len(folder.images())
    path.write_bytes(lines[0].replace(b'"image":0', b'"image":%d' % images))
    with pytest.raises(UserError, match=f"a row of image {images} in a run of {images}; start anew"):
        folder.rows()


def test_what_rows_refer_to_may_not_be_edited_or_go(folder):
    with folder.writer() as writer:
        writer.append(batch(0))
    images = list(folder.images().entries)
    conditions = (folder.path / "conditions.json").read_text()
    (folder.path / "conditions.json").write_text(conditions.replace('"steps": 100', '"steps": 10', 1))
    with pytest.raises(UserError, match=r"the condition CEPGD .* was edited; start anew with --fresh"):
        folder.rows()
    (folder.path / "conditions.json").write_text(conditions)
    (folder.path / "images.json").unlink()  # the same images may come in another order now
    with pytest.raises(UserError, match=r"has rows but no images\.json; start anew with --fresh"):
        folder.open(folder.identity(), [NEAR], images)


def test_another_identity_is_refused_with_its_fields(folder):
    other = {"checkpoint": "xyz", "eps": [0.1], "attacks": {"CEPGD": {"steps": 300, "amp": 0}}, "seed": 3}
    with folder.writer() as writer:
        writer.append(batch(0))
    with pytest.raises(UserError) as error:
        begin(folder.path, other)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        'checkpoint is "abc" there and "xyz" here',
        "eps is [0.1, 0.2] there and [0.1] here",
        "attacks.CEPGD.steps is 100 there and 300 here",
        "attacks.CEPGD.amp is false there and 0 here",
        "seed is absent there and 3 here",
        "--fresh",
    ):
        assert part in message
    assert folder.read_json("run.json")["identity"] == IDENTITY


def test_long_differences_are_cut(folder):
    with folder.writer() as writer:
        writer.append(batch(0))
    with pytest.raises(UserError, match="; and 14 more; use another") as error:
        begin(folder.path, {f"k{i}": "x" * 500 for i in range(17)})
    assert len(str(error.value)) < 1200
    assert differences({"a": (1,)}, {"a": (1,)}) == []


def test_the_same_identity_goes_on_and_keeps_everything(folder):
    with folder.writer() as writer:
        writer.append(batch(0))
    before = (folder.path / "run.json").read_bytes()
    again = begin(folder.path, {**IDENTITY, "eps": (0.1, 0.2)}, about={"date": "later"})
    assert again.rows() == batch(0)
    assert (folder.path / "run.json").read_bytes() == before


def test_fresh_discards_the_run_and_nothing_else(folder):
    with folder.writer() as writer:
        writer.append(batch(0), [1.0] * 4)
    folder.write_json("summary.json", [])
    folder.write_json("images/grid.json", [])
    (folder.path / "images/00-image.png").write_bytes(b"")
    for keep in ("notes.txt", "rows/notes.txt", "best.pth"):
        (folder.path / keep).write_text("mine")
    begin(folder.path, {"new": 1}, fresh=True, about={"date": "today"})
    left = {str(p.relative_to(folder.path)) for p in folder.path.rglob("*") if p.is_file() and p.name[0] != "."}
    assert left == {"run.json", "conditions.json", "images.json", "notes.txt", "rows/notes.txt", "best.pth"}
    assert folder.read_json("run.json") == {"format": 2, "identity": {"new": 1}, "about": {"date": "today"}}


def test_rows_without_identity_and_foreign_run_files_are_refused(folder):
    with folder.writer() as writer:
        writer.append(batch(0))
    for content, expected in (
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[]", "not written by this"),
        (b'{"format": 1}', "--fresh"),
    ):
        (folder.path / "run.json").write_bytes(content)
        with pytest.raises(UserError, match=expected):
            begin(folder.path)
    (folder.path / "run.json").unlink()
    with pytest.raises(UserError, match="has rows but no run"):
        begin(folder.path)


def test_json_files_are_replaced_as_a_whole(folder, monkeypatch):
    folder.write_json("summary.json", {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        folder.write_json("summary.json", {"value": math.nan})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"summary\.json: No space left on device"):
        folder.write_json("summary.json", {"value": 2})
    assert folder.read_json("summary.json") == {"value": 1}
    assert not list(folder.path.glob(".*.tmp"))
    for name in ("../outside.json", "/tmp/outside.json"):  # noqa: S108
        with pytest.raises(ValueError, match="below the run folder"):
            folder.write_json(name, {})


def test_a_full_disk_loses_nothing(folder):
    """A real limit of the system: the write stops in the middle of a row, as on a full disk."""
    path = folder.path / "rows/rank-0.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with folder.writer() as writer:
        writer.append(batch(0))
        durable = path.read_bytes()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(durable) + 300, hard))
            with pytest.raises(UserError, match=r"cannot write .*rank-0.jsonl: File too large; the rows before it are"):
                writer.append(batch(4))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == durable
        writer.append(batch(4))  # room again
    assert folder.rows() == batch(0) + batch(4)


def _open_as_nobody(path, queue):
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        begin(path)
    except UserError as error:
        queue.put(str(error))


def test_an_unwritable_folder_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot create .*file/run/rows: Not a directory; choose a --work-dir"):
        begin(tmp_path / "file/run")
    (tmp_path / "locked").mkdir(mode=0o500)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_open_as_nobody, args=(tmp_path / "locked/run", queue))
    process.start()
    assert "Permission denied" in queue.get(timeout=20)
    process.join()


def test_rows_are_never_written_through_a_link(folder, tmp_path):
    (tmp_path / "precious.txt").write_text("precious")
    (folder.path / "rows/rank-0.jsonl").symlink_to(tmp_path / "precious.txt")
    with pytest.raises(UserError, match="cannot open"), folder.writer(0):
        pytest.fail("opened")
    assert (tmp_path / "precious.txt").read_text() == "precious"


def test_replacing_leaves_no_trace_of_a_killed_attempt(tmp_path):
    (tmp_path / ".summary.json.tmp").write_text("half of an old att")
    replace_file(tmp_path / "summary.json", b"{}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
