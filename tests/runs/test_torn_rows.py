"""A process that writes rows is killed at random moments: it ends as if undisturbed."""

import os
import random
import subprocess
import sys
from pathlib import Path

from segrobust.runs.folder import RunFolder

BATCHES = 150
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
