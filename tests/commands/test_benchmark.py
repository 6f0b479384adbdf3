"""``segrobust benchmark``: every cell an ordinary run, taken where it is there, and told where it fails."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segrobust.cli import main
from segrobust.models.segmenter import Segmenter
from segrobust.models.shipped import zoo
from segrobust.report.texts import interval, percent
from tests.commands.conftest import World, tiny_weights
from tests.runs.killable import free_port
from tests.runs.toy_run import lines

STUDIES = [
    {"name": "attacked", "attacks": ["CEPGD"], "eps": ["1/255", "4/255"], "steps": 3, "batch_size": 2},
    {"name": "corrupted", "corruptions": ["fog"], "severity": [1, 3], "num_images": 2},
]
CELLS = ["first/attacked", "first/corrupted", "second/attacked", "second/corrupted"]


@pytest.fixture(scope="module")
def second(world: World) -> Path:
    """Other weights of the tiny model."""
    path = world.root / "second.safetensors"
    torch.manual_seed(1)
    save_file({name: one + 0.01 * torch.rand_like(one) if one.is_floating_point() else one
               for name, one in tiny_weights(world.config).items()}, path)  # fmt: skip
    return path


def described(world: World, second: Path, **more) -> dict:
    models = [
        {"name": "first", "model": "tiny.py", "checkpoint": world.weights.name, "recipe": "none", "command": "x"},
        {"name": "second", "model": "tiny.py", "checkpoint": second.name},
    ]
    return {"name": "tiny", "models": models, "studies": STUDIES, **more}


@pytest.fixture
def file(world: World, second: Path):
    """Writes a benchmark file beside the tiny model, whose files it names without a folder."""

    def write(**more) -> Path:
        path = world.root / "benchmark_file.json"
        path.write_text(json.dumps(described(world, second, **more)))
        return path

    return write


@pytest.fixture(scope="module")
def whole(world: World, second: Path, tmp_path_factory) -> Path:
    """The work dir of a benchmark without checks that has run to its end."""
    work_dir, path = tmp_path_factory.mktemp("whole"), world.root / "whole.json"
    path.write_text(json.dumps(described(world, second)))
    assert main(["benchmark", str(path), "--work-dir", str(work_dir), "--no-checks"]) == 0
    return work_dir


def run(path: Path, work_dir: Path, *options: object) -> int:
    return main([str(word) for word in ("benchmark", path, "--work-dir", work_dir, "--no-checks", *options)])


def content(work_dir: Path) -> dict:
    return json.loads((work_dir / "benchmark.json").read_text())


def statuses(work_dir: Path) -> dict[str, str]:
    return {one["folder"]: one["status"] for one in content(work_dir)["cells"]}


def rows(work_dir: Path) -> dict[str, list[bytes]]:
    return {folder: lines(work_dir / folder) for folder in CELLS}


def files(work_dir: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in work_dir.rglob("*") if file.is_file()}


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Counts the images that any model sees."""
    seen, plain = [], Segmenter.forward

    def forward(self, images):
        seen.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(Segmenter, "forward", forward)
    return seen


def test_what_it_leaves(whole, world, second):
    stored = content(whole)
    assert (stored["format"], stored["name"], len(stored["config_sha256"])) == (1, "tiny", 64)
    assert [one["folder"] for one in stored["cells"]] == CELLS and {*statuses(whole).values()} == {"done"}
    assert stored["models"][0] == {
        "name": "first", "model": "tiny.py", "checkpoint": world.weights.name, "recipe": "none", "paper": None,
        "command": "x", "options": {},
    }  # fmt: skip
    assert stored["studies"] == STUDIES and stored["cells"][0]["error"] is None
    assert "<svg" in (whole / "report.html").read_text()
    for folder in CELLS:
        identity = json.loads((whole / folder / "run.json").read_text())["identity"]
        assert identity["checkpoint"] == (world.weights if folder < "s" else second).name
    assert len(json.loads((whole / "first/corrupted/images.json").read_text())["images"]) == 2


def test_a_cell_is_an_ordinary_evaluation(whole, world, tmp_path):
    options = ("--eps", "1/255", "4/255", "--steps", "3")
    assert main(world.evaluate(tmp_path, *options)) == 0
    assert lines(tmp_path) == lines(whole / "first/attacked")


def test_the_table_has_the_numbers_of_the_summaries(whole):
    page = (whole / "benchmark.md").read_text()
    table = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    cells = {line[1]: dict(zip(table[0], line, strict=True)) for line in table[1:]}
    scores = {}
    for model in ("first", "second"):
        records = json.loads((whole / model / "attacked/summary.json").read_text())
        for one in records:
            if one["study"] == "worst_case":
                ends = " / ".join(interval(one["ci"][name]) for name in ("aAcc", "mIoU_greedy"))
                text = f"{percent(one['aAcc'])} / {percent(one['mIoU_greedy'])}<br>{ends}"
                assert cells[model][f"worst case {round(255 * one['eps'])}/255"] == text
                scores[model] = one["mIoU_greedy"]
        (mean,) = [
            one for one in json.loads((whole / model / "corrupted/summary.json").read_text())
            if one["name"] == "mean" and one["severity"] is None
        ]  # fmt: skip
        assert cells[model]["corrupted"] == f"{percent(mean['aAcc'])} / {percent(mean['mIoU'])}"
    best = max(scores, key=scores.get)
    assert [line[1] for line in table[1:]] == sorted(scores, key=scores.get, reverse=True)
    assert cells[best]["rank"] == "1" and "ranked by the worst-case mIoU: attacked at 4/255" in page
    assert re.search(r"attacked: 4 images \(data [0-9a-f]{12}\); corrupted: 2 images", page)


def test_what_is_there_is_taken_without_a_pass(whole, file, passes, capsys):
    before = rows(whole)
    assert run(file(), whole) == 0
    out = capsys.readouterr().out
    assert not passes and rows(whole) == before
    assert re.findall(r"^cell (\d) of 4: (\w+) / (\w+)$", out, re.M) == [
        (str(number), *folder.split("/")) for number, folder in enumerate(CELLS, start=1)
    ]
    assert len(re.findall("^taken in", out, re.M)) == 4
    assert run(file(), whole, "--only", "first/attacked", "--fresh") == 0
    assert len(passes) > 4 and "\ndone in" in capsys.readouterr().out and rows(whole) == before


def test_only_some_and_then_the_others(file, tmp_path, whole, passes, capsys):
    assert run(file(), tmp_path, "--only", "first/corrupted", "second/attacked") == 0
    expected = {**dict.fromkeys(CELLS, "missing"), "first/corrupted": "done", "second/attacked": "done"}
    assert statuses(tmp_path) == expected and "Not run yet: first / attacked" in (tmp_path / "benchmark.md").read_text()
    assert not (tmp_path / "first/attacked").exists()
    assert run(file(), tmp_path, "--only", "first") == 0
    assert statuses(tmp_path) == {**expected, "first/attacked": "done"}
    assert "taken in" in capsys.readouterr().out
    changed = [{**STUDIES[0], "steps": 5}, STUDIES[1]]
    assert run(file(studies=changed), tmp_path, "--only", "second/corrupted") == 0  # what was done is another study now
    assert statuses(tmp_path) == {
        **dict.fromkeys(CELLS, "missing"),
        "first/corrupted": "done",
        "second/corrupted": "done",
    }
    assert lines(tmp_path / "first/attacked") == lines(whole / "first/attacked")


def test_a_cell_that_fails_is_told_and_the_others_go_on(file, world, second, tmp_path, whole, capsys):
    broken = world.root / "broken.safetensors"
    weights = tiny_weights(world.config)
    save_file({name: one * 1e38 if name.endswith("conv_seg.weight") else one for name, one in weights.items()}, broken)
    models = described(world, second)["models"]
    away = {"cfg_options": ["test_dataloader.dataset.data_root=/no/such|place"]}
    models = [
        {**models[0], "name": "nan", "checkpoint": broken.name},
        {**models[0], "name": "away", "options": away},
        *models,
    ]
    assert run(file(models=models), tmp_path) == 1
    out, err = capsys.readouterr()
    wanted = (
        {f"away/{one['name']}": "failed" for one in STUDIES} | dict.fromkeys(CELLS, "done") | {"nan/attacked": "failed"}
    )
    found = statuses(tmp_path)
    assert {name: found[name] for name in wanted} == wanted
    reasons = {one["folder"]: one["error"] for one in content(tmp_path)["cells"]}
    assert "/no/such|place is not a folder" in reasons["away/attacked"] and "finite" in reasons["nan/attacked"]
    assert f"failed: {reasons['nan/attacked']}" in out
    assert re.search(
        r"^segrobust: \d of 8 cells failed: nan / attacked, .*benchmark.json; run the same command", err, re.M
    )
    page = (tmp_path / "benchmark.md").read_text()
    assert r"Failed: away / attacked: " in page and r"such\|place" in page
    assert rows(tmp_path) == rows(whole)
    models = [{**one, "options": {}} for one in models[1:]]
    assert run(file(models=models), tmp_path) == 0 and "failed" not in statuses(tmp_path).values()


def test_another_identity_is_refused_with_what_differs(file, tmp_path, whole, capsys):
    studies = [STUDIES[0] | {"seed": 0}, STUDIES[1]]
    assert run(file(studies=studies), tmp_path, "--only", "first") == 0
    studies[0]["seed"] = 7
    before = files(tmp_path / "first/attacked")
    assert run(file(studies=studies), tmp_path) == 1
    assert "seed is 0 there and 7 here" in capsys.readouterr().out
    assert statuses(tmp_path) == {**dict.fromkeys(CELLS, "done"), "first/attacked": "failed"}
    assert files(tmp_path / "first/attacked") == before


def test_a_dry_run_writes_nothing(file, tmp_path, whole, capsys):
    assert run(file(), tmp_path / "new", "--dry-run") == 0
    out = capsys.readouterr().out
    assert not (tmp_path / "new").exists()
    spent = {name: int(passes) for name, passes in re.findall(r"^(\w+ / \w+) +(\d+) ", out, re.M)}
    images, steps, pictures = 4, 3, 3 * (2 * 3 + 1 + 2)  # three images attacked once more, and predictions
    attacked, corrupted = images * (1 + 2 * (1 + 2 * steps + 1)), 2 * 3
    assert spent["first / attacked"] in range(attacked - 8, attacked + pictures + 9)
    assert spent["first / corrupted"] == spent["second / corrupted"] == corrupted
    assert f"in all, one process {sum(spent.values()):>9}"[:20] in out and str(sum(spent.values())) in out
    assert "8 processes:" in out
    before = files(whole)
    assert run(file(), whole, "--dry-run") == 0
    assert files(whole) == before
    assert [*re.findall(r"^\w+ / \w+ +(\d+) ", capsys.readouterr().out, re.M)] == ["0"] * 4
    studies = [{**STUDIES[0], "seed": 3}]
    assert run(file(studies=studies), whole, "--dry-run", "--only", "first") == 1
    assert "first / attacked: cannot be run: " in capsys.readouterr().out and files(whole) == before


def test_a_smaller_trial_has_a_folder_of_its_own(file, in_tmp):
    assert main(["benchmark", str(file()), "--num-images", "1", "--no-checks", "--only", "attacked"]) == 0
    folder = in_tmp / "work_dirs/tiny-1-images"
    assert len(json.loads((folder / "first/attacked/images.json").read_text())["images"]) == 1
    assert not (in_tmp / "work_dirs/tiny").exists()


def test_untrustworthy_results_end_with_status_1(file, tmp_path, capsys):
    """The weights are random, and the checks see it."""
    path = file(studies=STUDIES[:1], models=[{"name": "one", "model": "tiny.py", "checkpoint": "tiny.safetensors"}])
    assert main(["benchmark", str(path), "--work-dir", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "trust: not trustworthy" in out and statuses(tmp_path) == {"one/attacked": "done"}
    assert "segrobust: results that are not trustworthy: one / attacked; see report.html" in err
    assert "| not trustworthy |" in (tmp_path / "benchmark.md").read_text()


def test_published_results_stand_beside_ours(file, world, tmp_path, whole, capsys):
    golden = world.root / "published.json"
    column = {"name": "PGD3", "attack": "CEPGD(steps=3)", "backwards": 3, "norm": "Linf"}
    table = {
        "name": "t", "source": "A paper", "tag": "tex", "data": "scenes", "split": "test", "images": 1449,
        "protocol": None, "nearest": ["own"], "protocol_published": "tiles", "metrics": ["aAcc"], "sided": "one",
        "tolerance": 3.0, "why": "so", "status": "not reproduced",
        "columns": [column | {"eps_published": "4/255", "eps": ["4/255"]}], "rows": {"first": [101.0]},
    }  # fmt: skip
    golden.write_text(json.dumps({"format": 1, "about": "x", "models": {"first": "a tiny one"}, "tables": [table]}))
    assert run(file(golden="published.json"), whole) == 0
    records = json.loads((whole / "first/attacked/summary.json").read_text())
    ours = next(one["aAcc"] for one in records if one["name"] == "CEPGD" and one["eps"] == pytest.approx(4 / 255))
    line = f"| first | PGD3, 4/255 | aAcc | at most 101 | {ours:.2f} | {ours - 101:+.2f} |"
    assert line in capsys.readouterr().out and line in (whole / "benchmark.md").read_text()
    assert run(file(), whole) == 0

    golden.write_text("{}")
    assert run(file(golden="published.json"), tmp_path / "new") == 2
    assert (
        "published.json: expected a file of published results with format 1" in capsys.readouterr().err
        and not (tmp_path / "new").exists()
    )


def test_a_folder_with_another_s_benchmark_json_is_refused(file, tmp_path, capsys):
    (tmp_path / "benchmark.json").write_text('{"format": 1, "cells": [{"model": 3}]}')
    assert run(file(), tmp_path) == 2
    assert "not written by this version of segrobust" in capsys.readouterr().err


def test_every_shipped_model_is_in_the_benchmark_of_camvid(repository):
    from segrobust.commands.benchmark_file import read_benchmark

    found = read_benchmark(repository / "configs/benchmarks/camvid.py")
    assert {one.model for one in found.models} == {*zoo()}
    for one in found.models:
        config = one.command.removeprefix("segrobust train ")
        assert one.recipe and (repository / config).is_file()
        assert Path(config).name == json.loads(zoo()[one.model].config_path.read_text())["trained_with"]


def test_the_slurm_script_starts_torchrun_once_per_machine(repository, tmp_path):
    for name, text in (("srun", 'printf "%s\\n" "$@"'), ("scontrol", "printf 'node7\\nnode8\\n'")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_ID": "42",
        "SLURM_GPUS_ON_NODE": "4",
    }
    environment = {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(repository)}
    script = [str(repository / "tools/slurm_benchmark.sh"), "my.py", "--only", "a b"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == [
        *("--kill-on-bad-exit=1", "python", "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "4"),
        *("--rdzv_backend", "c10d", "--rdzv_id", "42", "--rdzv_endpoint", "node7:29500"),
        *("tools/benchmark.py", "my.py", "--only", "a b", ""),
    ]
    without = subprocess.run(script[:1], env=environment, capture_output=True, text=True)
    assert without.returncode == 2 and "usage: sbatch" in without.stderr


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_cell_and_the_same_rows(file, tmp_path, whole):
    arguments = ["benchmark", str(file()), "--work-dir", str(tmp_path), "--no-checks"]
    started = multiprocessing.get_context("spawn").Process(target=main, args=(arguments,))
    started.start()
    end, seen = time.monotonic() + 300, tmp_path / "second/attacked/rows/rank-0.jsonl"
    while not (seen.is_file() and seen.stat().st_size) and time.monotonic() < end:
        time.sleep(0.001)
    os.kill(started.pid, signal.SIGKILL)
    started.join()
    assert 0 < len(lines(tmp_path / "second/attacked")) < len(lines(whole / "second/attacked"))
    assert statuses(tmp_path) == dict(zip(CELLS, ("done", "done", "missing", "missing"), strict=True))
    assert run(file(), tmp_path) == 0
    assert rows(tmp_path) == rows(whole) and {*statuses(tmp_path).values()} == {"done"}


@pytest.mark.slow
def test_two_machines_with_a_shared_folder_give_the_same_rows_and_agree_on_what_fails(
    file, tmp_path, whole, repository
):
    """Two launches meet at a port; in one cell only the main process sees that another run is there."""
    studies = [STUDIES[0] | {"seed": 7}, STUDIES[1]]
    assert run(file(studies=studies), tmp_path, "--only", "first/attacked") == 0
    meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{free_port()}", "--rdzv_id", "tiny"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", *meeting]
    command = [*torchrun, "tools/benchmark.py", str(file()), "--work-dir", str(tmp_path), "--no-checks"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    machines = [
        subprocess.Popen(
            [*command], cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    said = [machine.communicate(timeout=500)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [1, 1], "\n".join(said)
    together = "\n".join(said)
    assert together.count("seed is 7 there and 0 here") == 1 and together.count("1 of 4 cells failed") == 1
    assert statuses(tmp_path) == {**dict.fromkeys(CELLS, "done"), "first/attacked": "failed"}
    for folder in CELLS[1:]:
        assert lines(tmp_path / folder) == lines(whole / folder)
    assert lines(tmp_path / "second/attacked", 0) and lines(tmp_path / "second/attacked", 1)
    kept = json.loads((tmp_path / "second/attacked/run.json").read_text())["about"]["options"]
    assert kept[:2] == ["benchmark", file().name]


@pytest.mark.slow
def test_the_smoke_benchmark_needs_no_data_and_two_minutes_of_two_cores(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGROBUST_CAMVID", str(tmp_path / "nothing"))
    monkeypatch.setenv("SEGROBUST_CACHE", str(tmp_path / "cache"))
    began = time.process_time()
    status = main(["benchmark", str(repository / "configs/benchmarks/smoke.py"), "--work-dir", str(tmp_path / "smoke")])
    assert status == 0 and time.process_time() - began < 2 * 120
    assert {*statuses(tmp_path / "smoke").values()} == {"done"}
    table = (tmp_path / "smoke/benchmark.md").read_text()
    assert table.index("| 1 | robust |") < table.index("| 2 | standard |")
    assert [one.name for one in (tmp_path / "cache").iterdir()] == ["scenes-8x180x240"]
