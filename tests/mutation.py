"""Change one constant or rule of the package at a time, and see that a test fails: ``python tests/mutation.py``.

    python tests/mutation.py --list
    python tests/mutation.py --only duals.py --jobs 2

The table is in ``mutations.py``. Every mutation is made in a copy of the tree in a temporary folder, where the tests
that it names are run until the first of them fails. Before, all tests that are named must pass there as they are. Not
part of ``make test``, for its time. Exit status: 0 where every mutation was killed; 1 where one survived, its text was
not found exactly once, or the tests fail without any mutation; 2 where no mutation fits ``--only``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.mutations import TABLE, Mutation  # noqa: E402

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
WORKERS = multiprocessing.get_context("forkserver")
WORKERS.set_forkserver_preload(["torch", "numpy", "scipy.optimize", "pytest", "hypothesis", "anyio"])

KEPT = ("segrobust", "tests", "configs", "examples", "pyproject.toml")
LONGEST = 300  # seconds; a mutation that makes a loop endless is noticed by then
FAILED, PASSED = 1, 0  # exit statuses of pytest; others mean that no test was run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="PATTERN", default="", help="those with this text in file, old or new text")
    parser.add_argument("--jobs", type=int, metavar="N", default=1, help="copies of the tree to work in (default: 1)")
    parser.add_argument("--list", action="store_true", help="print the mutations and run nothing")
    options = parser.parse_args(arguments)
    chosen = [one for one in TABLE if options.only in f"{one.file}\n{one.old}\n{one.new}"]
    if not chosen:
        print(f"no mutation has {options.only!r} in its file or text", file=sys.stderr)
        return 2
    if misplaced := [one for one in chosen if occurrences(one) != 1]:
        for one in misplaced:
            print(f"found {occurrences(one)} times, expected once: {one}", file=sys.stderr)
        return 1
    if options.list:
        print(*chosen, sep="\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        return 0 if run_all(chosen, Path(folder), max(options.jobs, 1)) else 1


def occurrences(mutation: Mutation) -> int:
    return (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old)


def copy_tree(folder: Path) -> Path:
    for name in KEPT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    return folder


def run_all(mutations: Sequence[Mutation], folder: Path, jobs: int) -> bool:
    """Print every verdict as it comes; whether all of them are as they should be."""
    wanted = sorted({test for one in mutations for test in one.tests})
    whole = copy_tree(folder / "whole")
    status, tail = run_tests(whole, wanted, keep_bytecode=True)
    if status != PASSED:
        print(f"the tests do not pass as they are:\n{tail}", file=sys.stderr)
        return False
    free: queue.Queue[Path] = queue.Queue()
    for n in range(jobs):
        free.put(shutil.copytree(whole, folder / str(n)))  # with the compiled files, which are not written again
    with ThreadPoolExecutor(jobs) as pool:
        verdicts = list(pool.map(lambda one: try_one(one, free), mutations))
    bad = [one for one, killed in zip(mutations, verdicts, strict=True) if not killed]
    print(f"{len(mutations)} mutations, {len(mutations) - len(bad)} killed, {len(bad)} not")
    for one in bad:
        print(f"  {one}")
    return not bad


def try_one(mutation: Mutation, free: queue.Queue[Path]) -> bool:
    copy = free.get()
    file = copy / mutation.file
    original = file.read_text(encoding="utf-8")
    start = time.monotonic()
    try:
        file.write_text(original.replace(mutation.old, mutation.new), encoding="utf-8")
        status, tail = run_tests(copy, mutation.tests)
    finally:
        file.write_text(original, encoding="utf-8")
        free.put(copy)
    verdict = {FAILED: "killed", PASSED: "SURVIVED"}.get(status, f"NOT RUN, pytest says {status}")
    print(f"{verdict:9} {time.monotonic() - start:5.1f} s  {mutation}", flush=True)
    if status not in (FAILED, PASSED):
        print(tail, flush=True)
    return status == FAILED


def run_tests(copy: Path, tests: Sequence[str], keep_bytecode: bool = False) -> tuple[int, str]:
    """pytest's exit status and the end of what it prints; a run that takes too long counts as failed."""
    said = copy / "said.txt"
    process = WORKERS.Process(target=pytest_in, args=(str(copy), list(tests), str(said), keep_bytecode))
    process.start()
    process.join(LONGEST)
    if process.is_alive():
        process.kill()
        process.join()
        return FAILED, ""
    return process.exitcode, said.read_text(errors="replace")[-3000:]


def pytest_in(copy: str, tests: Sequence[str], said: str, keep_bytecode: bool) -> None:
    """Run by a worker, which has imported the large packages already, and nothing of this one but this file."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("segrobust", "tests")]:
        del sys.modules[name]
    sys.path[:] = [copy, *(path for path in sys.path if path not in ("", str(ROOT), str(ROOT / "tests")))]
    # two mutations of one file within a second, of one length, look alike to the check of a compiled file
    sys.dont_write_bytecode = not keep_bytecode
    os.environ |= {"PYTHONPATH": copy, **({} if keep_bytecode else {"PYTHONDONTWRITEBYTECODE": "1"})}
    os.chdir(copy)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    import pytest

    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in tests)])
    sys.stdout.flush()
    os._exit(int(status))


if __name__ == "__main__":
    sys.exit(main())
