"""What decides a run's rows besides its settings: another start where it differs is refused, or accepted and told."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
import torch

from segrobust.commands.evaluation import Origin, evaluate
from segrobust.core.errors import UserError
from segrobust.runs import environment
from segrobust.runs.environment import code_sha256, version_of
from tests.runs.toy_run import RUN, ToySource, lines, toy_model

SMALL = {**RUN, "attacks": ["UniformNoise"], "eps": ["2/255"], "pictures": False}


def start(folder, model=None, **changes):
    return evaluate(model or toy_model(), ToySource(), work_dir=folder, **{**SMALL, **changes})


def stored(folder) -> dict:
    return json.loads((folder / "run.json").read_text())


def lose_rows(folder) -> None:
    """As after a kill in the middle."""
    rows = folder / "rows" / "rank-0.jsonl"
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:4]))


@pytest.fixture
def begun(tmp_path):
    start(tmp_path)
    lose_rows(tmp_path)
    return tmp_path


def other_versions(monkeypatch, **versions: str) -> None:
    monkeypatch.setattr(environment, "version_of", lambda name: versions.get(name) or version_of(name))


DECIDING = ["torch", "torchvision", "timm", "onedl-mmcv", "onedl-mmsegmentation", "numpy", "opencv-python", "pillow"]


@pytest.mark.parametrize("name", DECIDING)
def test_another_version_is_refused_and_named(begun, monkeypatch, name):
    other_versions(monkeypatch, **{name: "0.1"})
    with pytest.raises(
        UserError, match=rf'versions\.{name} is ".*" there and "0\.1" here; .*different VERSIONS to go on'
    ):
        start(begun)


def test_a_version_is_found_under_each_name_of_its_package(monkeypatch):
    def version(name: str) -> str:
        if name == "opencv-contrib-python-headless":
            return "4.9"
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert version_of.__wrapped__("opencv-python") == "4.9"
    assert version_of.__wrapped__("pillow") == "not installed as a package"


def test_another_code_device_precision_and_memory_format_are_refused_and_named(begun, monkeypatch):
    def refused(what: str, model=None) -> str:
        with pytest.raises(UserError, match=what) as error:
            start(begun, model)
        return str(error.value)

    with monkeypatch.context() as other:
        other.setattr(environment, "code_sha256", lambda: "0" * 64)
        assert "--accept-different CODE to go on" in refused("code_sha256 is")
        other_versions(other, torch="0.1")
        assert "--accept-different CODE VERSIONS to go on" in refused("code_sha256 is .*versions.torch is")
    with monkeypatch.context() as other:
        other.setattr(environment, "device_name", lambda _: "NVIDIA X1")
        assert "--accept-different" not in refused('device is "cpu" there and "NVIDIA X1" here')
        other_versions(other, torch="0.1")
        assert "--accept-different" not in refused("device is")
    with pytest.raises(UserError, match='precision is "float32" there and "bf16" here'):
        start(begun, precision="bf16")
    refused('memory_format is "contiguous" there and', toy_model().to(memory_format=torch.channels_last))
    assert len(lines(begun)) == 4


def test_processes_that_differ_are_refused_and_named():
    first = environment.environment_of(torch.device("cpu"))
    environment.refuse_unequal([first, dict(first)])
    assert first["threads"] == torch.get_num_threads()
    changes = {
        "device": ("NVIDIA X1", "device is 'cpu' in process 0 and 'NVIDIA X1' in process 1"),
        "threads": (99, "threads is .* in process 0 and 99 in process 1"),
        "versions": (
            {**first["versions"], "timm": "0.1"},
            r"versions\.timm is '.*' in process 0 and '0.1' in process 1",
        ),
        "code_sha256": ("0" * 64, "code_sha256 is '.*' in process 0 and '0000"),
    }
    for name, (value, told) in changes.items():
        with pytest.raises(UserError, match=told):
            environment.refuse_unequal([first, {**first, name: value}, first])


def test_rows_whose_reader_is_told_of_another_version_are_refused(begun):
    run = stored(begun)
    run["about"]["versions"].update(torch="1.9.0", accelerate="0.1")
    (begun / "run.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match=r'run: versions\.torch is "1\.9\.0" there and "[^"]*" here; use another'):
        start(begun)


def test_an_accepted_difference_is_told_in_the_run_and_asked_for_once(begun, monkeypatch):
    plain = stored(begun)
    other_versions(monkeypatch, timm="0.1")
    monkeypatch.setattr(environment, "code_sha256", lambda: "1" * 64)
    with pytest.raises(UserError, match="code_sha256"):  # one accepted, the other not
        start(begun, accept_different=["VERSIONS"])
    assert stored(begun) == plain
    start(begun, accept_different=("CODE", "VERSIONS"))
    run = stored(begun)
    assert {**run, "accepted_different": 0} == {**plain, "accepted_different": 0}
    code, versions = run["accepted_different"]
    assert code["what"] == "CODE" and versions["what"] == "VERSIONS"
    assert code["stored"] == {name: plain["identity"][name] for name in ("segrobust", "code_sha256", "users_code")}
    assert code["now"] == {**code["stored"], "code_sha256": "1" * 64}
    assert versions["stored"] == {"versions": plain["identity"]["versions"]}
    assert versions["now"] == {"versions": {**plain["identity"]["versions"], "timm": "0.1"}}
    assert code["date"][:4].isdigit() and len(lines(begun)) == 7 * 2
    start(begun)  # the same again
    assert stored(begun) == run
    other_versions(monkeypatch, timm="0.2")  # and another one
    with pytest.raises(UserError, match=r'timm is "[^"]*" there and "0\.2" here'):
        start(begun)
    start(begun, accept_different="VERSIONS")
    assert [one["what"] for one in stored(begun)["accepted_different"]] == ["CODE", "VERSIONS", "VERSIONS"]
    monkeypatch.undo()
    start(begun)  # as it was at first
    start(begun, fresh=True)
    assert "accepted_different" not in stored(begun)


def test_a_setting_cannot_be_accepted(begun):
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        start(begun, seed=1, accept_different=("CODE", "VERSIONS"))
    with pytest.raises(UserError, match="accept_different: unknown value 'SEED'; known: CODE, VERSIONS"):
        start(begun, accept_different="SEED")


def test_the_digest_of_the_code_is_that_of_what_decides_rows(tmp_path):
    for name in (
        "attacks/pgd.py",
        "runs/executor.py",
        "checks/base.py",
        "report/x.py",
        "cli.py",
        "cli_x.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a = 1\n")
    digest = code_sha256.__wrapped__
    plain = digest(tmp_path)
    for name in ("checks/base.py", "report/x.py", "cli.py"):
        (tmp_path / name).write_text("a = 2\n")
        assert digest(tmp_path) == plain
    seen = {plain}
    for name in ("attacks/pgd.py", "runs/executor.py", "cli_x.py"):
        (tmp_path / name).write_text("a = 2\n")
        seen.add(digest(tmp_path))
    (tmp_path / "attacks/pgd.py").rename(tmp_path / "attacks/apgd.py")
    assert len(seen | {digest(tmp_path)}) == 5
    assert code_sha256() == code_sha256() != plain


def test_a_run_from_python_tells_date_versions_and_device(tmp_path):
    start(tmp_path, origin=Origin(about={"options": ["x"], "python": "mine"}))
    about = stored(tmp_path)["about"]
    assert torch.__version__.startswith(about["versions"]["torch"].partition("+")[0])
    assert about["date"][:2] == "20" and about["device"] == "cpu" and about["processes"] == 1
    assert about["options"] == ["x"] and about["python"] == "mine"


def test_a_run_that_failed_before_its_first_row_does_not_block_its_folder(tmp_path):
    class Unreadable(ToySource):
        def __getitem__(self, index):
            raise UserError("no label for scene 0")

    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.png").write_bytes(b"of the user")  # in a folder that was never a run's
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rank-0.jsonl").write_bytes(b'{"image": 3, "na')  # killed in its first row
    with pytest.raises(UserError, match="no label"):
        evaluate(toy_model(), Unreadable(), work_dir=tmp_path, **SMALL)
    assert (tmp_path / "images" / "mine.png").exists()
    with pytest.raises(UserError, match="no label"):  # not: another run
        evaluate(toy_model(), Unreadable(salt=1), work_dir=tmp_path, **SMALL)
    start(tmp_path, seed=3)
    assert stored(tmp_path)["identity"]["seed"] == 3 and len(lines(tmp_path)) == 7 * 2
    for file in (tmp_path / "rows").glob("*.jsonl"):  # a finished run is one without its rows too
        file.unlink()
    with pytest.raises(UserError, match="seed is 3 there"):
        start(tmp_path)
