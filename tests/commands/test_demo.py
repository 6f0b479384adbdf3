"""The demo's chain, shrunk to seconds; that the robust model wins is seen in the full one."""

from __future__ import annotations

import json

import pytest

from segrobust.commands import demo

SMALL = """
_base_ = [{base!r}]
train_cfg = dict(max_iters={iterations}, val_interval={iterations})
default_hooks = dict(checkpoint=dict(interval={interval}))
"""


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Configs that inherit from the shipped ones and end soon, on few scenes."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for name, iterations, interval in (("standard", 12, 3), ("robust", 10, 2)):
        base = str(demo.CONFIGS / f"demo_{name}.py")
        (folder / f"demo_{name}.py").write_text(SMALL.format(base=base, iterations=iterations, interval=interval))
    monkeypatch.setattr(demo, "CONFIGS", folder)
    monkeypatch.setattr(demo, "SCENES", {"train": 8, "val": 2, "test": 4, "size": (64, 96)})
    monkeypatch.setattr(demo, "RADII", ("4/255",))
    monkeypatch.setattr(demo, "STEPS", 2)


@pytest.mark.slow
def test_the_demo_trains_attacks_reports_and_does_nothing_twice(tmp_path):
    report = demo.run_demo(tmp_path)
    page = report.read_text()
    assert report == tmp_path / "report.html" and "standard" in page and "robust" in page
    for name in ("standard", "robust"):
        summary = json.loads((tmp_path / f"evaluation-{name}" / "summary.json").read_text())
        assert [r["name"] for r in summary] == ["clean", "CEPGD", "TsallisPGD", "UniformNoise", "worst_case"]
        assert {r["images"] for r in summary} == {4}

    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.pth")}
    rows = [(tmp_path / f"evaluation-{name}" / "rows" / "rank-0.jsonl").read_bytes() for name in ("standard", "robust")]
    demo.run_demo(tmp_path)
    assert stamps == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.pth")}
    assert rows == [
        (tmp_path / f"evaluation-{name}" / "rows" / "rank-0.jsonl").read_bytes() for name in ("standard", "robust")
    ]


@pytest.mark.slow
def test_an_interrupted_training_goes_on(tmp_path, monkeypatch):
    demo.write_scenes(tmp_path / "scenes", **demo.SCENES)
    with pytest.raises(RuntimeError, match="stop"):
        monkeypatch.setattr("segrobust.hooks.ReseedHook.after_train_iter", stop_at(7), raising=False)
        demo.train_demo("standard", tmp_path, load_from=None)
    monkeypatch.setattr("segrobust.hooks.ReseedHook.after_train_iter", lambda *_, **__: None)
    weights = demo.train_demo("standard", tmp_path, load_from=None)
    log = "".join(file.read_text() for file in (tmp_path / "standard").rglob("*.log"))
    assert weights.is_file() and "resumed" in log.lower()


def stop_at(iteration: int):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == iteration:
            raise RuntimeError("stop")

    return after_train_iter
