import json
import logging
import math
import multiprocessing
import os
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segrobust.core.errors import UserError
from segrobust.core.files import only_process, replace_file
from segrobust.core.rows import Condition, Row, check_complete
from segrobust.runs.differences import differences
from segrobust.runs.folder import RunFolder

IDENTITY = {"checkpoint": "abc", "eps": [0.1, 0.2], "attacks": {"CEPGD": {"steps": 100, "amp": False}}}
BATCHES = 150
OLD = (
    b'{"format": 1, "identity": {}, "about": {}}',
    "not written by this version of segrobust; start anew with --fresh",
)
CHILD = """
import sys
from segrobust.core.rows import Condition, Row
from segrobust.runs.folder import RunFolder
condition = Condition("attack", "CEPGD", norm="Linf", eps=0.1)
images = [{"name": str(n), "sha256": str(n)} for n in range(4 * int(sys.argv[3]))]
folder = RunFolder(sys.argv[1])
folder.open({"checkpoint": "abc"}, [condition], images)
done = {row.image for row in folder.rows()}
def row(image):
    counts = {"classes": [0], "tp": [image], "fp": [3], "fn": [4]}
    return Row(image, condition, counts, {"distance": 0.1, "forwards": 9, "backwards": 8, "text": "x" * 100})
with folder.writer(rank=int(sys.argv[2])) as writer:
    print("ready", flush=True)
    for start in range(0, 4 * int(sys.argv[3]), 4):
        if not done.issuperset(range(start, start + 4)):
            writer.append([row(image) for image in range(start, start + 4)], [0.5] * 4)
folder.write_json("summary.json", {"rows": len(folder.rows())})
"""


NEAR, FAR = (Condition("attack", "CEPGD", norm="Linf", eps=eps, fields={"steps": 100}) for eps in (0.1, 0.2))
CLEAN = Condition("clean", "clean")
IMAGES = [{"name": f"scene {i}", "sha256": f"{i:064d}"} for i in range(8)]


def batch(start, condition=NEAR, size=4):
    return [
        Row(
            i,
            condition,
            {"classes": [0, 2], "tp": [i, 3], "fp": [0, 2], "fn": [2, 0]},
            {"forwards": 100, "backwards": 99, "distance": condition.eps or 0.0},
        )
        for i in range(start, start + size)
    ]


def changed(row, image=None, counts=(), **extra):
    """The row with some of it otherwise."""
    number = row.image if image is None else image
    return Row(number, row.condition, {**row.counts, **dict(counts)}, {**row.extra, **extra})


def begin(path, identity=IDENTITY, conditions=(CLEAN, NEAR, FAR), images=IMAGES, **options):
    folder = RunFolder(path)
    folder.open(identity, conditions, images, **options)
    return folder


@pytest.fixture
def folder(tmp_path):
    return begin(tmp_path / "run")


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


def _hold(path, ready):
    with only_process(path):
        ready.set()
        time.sleep(60)


def test_a_second_process_is_told_that_it_waits_and_refused_until_the_first_is_killed(folder, caplog):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(folder.path / "rows/.lock-0", ready))
    process.start()
    assert ready.wait(20)
    with (
        pytest.raises(UserError, match=r"another process is using .*run,"),
        only_process(folder.path / "rows/.lock-0", patience=0.1),
    ):
        pytest.fail("two writers at once")
    assert caplog.messages == [f"another process is using {folder.path}; waiting up to 0.1 s for its end"]
    process.kill()
    with folder.writer(0) as writer:  # the lock died with its process
        writer.append(batch(0))
    process.join()


def test_a_process_that_outlived_its_run_keeps_the_next_start_out(folder, monkeypatch):
    """Killed alone, the main process leaves the others writing; what they compute would be computed twice."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(folder.path / "rows/.lock-1", ready))
    process.start()
    assert ready.wait(20)
    monkeypatch.setattr(only_process.__wrapped__, "__defaults__", (0.1,))  # its patience
    with pytest.raises(UserError, match=r"another process is using .*run,"):
        begin(folder.path)
    process.kill()
    process.join()
    begin(folder.path)


def _open(path, fresh, queue):
    only_process.__wrapped__.__defaults__ = (0.1,)  # its patience
    try:
        begin(path, fresh=fresh)
    except UserError as error:
        queue.put(str(error))
    else:
        queue.put("opened")


def _open_elsewhere(path, fresh=False):
    """What another process is told that opens the folder."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_open, args=(path, fresh, queue))
    process.start()
    told = queue.get(timeout=20)
    process.join()
    return told


def test_a_held_folder_is_kept_through_all_that_a_run_does(folder):
    refused = (
        f"another process is using {folder.path}, which a run keeps until its checks and report are done; wait for"
    )
    with folder.held(0):
        folder.open(IDENTITY, [CLEAN, NEAR, FAR], IMAGES)
        with folder.held(0), folder.writer(0) as writer:
            writer.append(batch(0))
        RunFolder(folder.path).rows()
        for fresh in (False, True):
            assert _open_elsewhere(folder.path, fresh).startswith(refused)
        assert folder.rows() == batch(0)
    assert _open_elsewhere(folder.path) == "opened"
    with folder.held(1):  # one of its other processes
        assert _open_elsewhere(folder.path).startswith(refused)


def test_a_run_keeps_its_folder_to_the_end(tmp_path, monkeypatch):
    from segrobust.commands import evaluation as runner
    from tests.runs.toy_run import RUN, ToySource, toy_model

    told = []

    def and_another_start(function):
        def wrapped(*args, **more):
            told.append(_open_elsewhere(tmp_path, fresh=True))
            return function(*args, **more)

        return wrapped

    for name in ("entries_of", "summarise", "run_checks", "write_pictures", "build_report"):
        monkeypatch.setattr(runner, name, and_another_start(getattr(runner, name)))
    settings = {**RUN, "attacks": ["TsallisPGD"], "eps": ["2/255"], "checks": True}
    runner.evaluate(toy_model(), ToySource(), work_dir=tmp_path, **settings)
    assert len(told) == 5 and all(text.startswith("another process is using") for text in told)
    assert (tmp_path / "report.html").exists() and (tmp_path / "images" / "grid.json").exists()
    assert "holds another run" in _open_elsewhere(tmp_path)


def _start_child(path, rank=0):
    """A process that has opened the run and begins to write."""
    command = [sys.executable, "-c", CHILD, str(path), str(rank), str(BATCHES)]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def _row_bytes(path):
    return sorted(line for file in path.glob("rows/rank-*.jsonl") for line in file.read_bytes().splitlines())


def _size(path):
    return sum(file.stat().st_size for file in path.glob("rows/rank-*.jsonl"))


def test_killed_at_random_moments_and_resumed_it_ends_the_same(tmp_path):
    calm, torn = tmp_path / "calm", tmp_path / "torn"
    assert _start_child(calm).wait(60) == 0
    chance = random.Random(0)
    found = {0}
    for kill in range(200):
        size = _size(torn) + chance.randrange(_size(calm) // 15)
        process = _start_child(torn, rank=kill % 2)
        while _size(torn) < size and process.poll() is None:
            pass
        process.kill()
        if process.wait(20) == 0:
            break
        found.add(len(RunFolder(torn).rows()))  # readable after every kill
    assert len(found) > 10  # the kills did fall into the run
    assert RunFolder(torn).rows() == RunFolder(calm).rows()
    assert _row_bytes(torn) == _row_bytes(calm)  # no row was stored twice
    assert len(_row_bytes(calm)) == 4 * BATCHES
    assert (torn / "summary.json").read_bytes() == (calm / "summary.json").read_bytes()


def test_replacing_leaves_no_trace_of_a_killed_attempt(tmp_path):
    (tmp_path / ".summary.json.tmp").write_text("half of an old att")
    replace_file(tmp_path / "summary.json", b"{}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
