"""The demo's chain, shrunk to seconds; that the robust model wins is seen in the full one."""

from __future__ import annotations

import json

import pytest

from segrobust.commands import demo, demo_config


@pytest.mark.slow
def test_the_demo_trains_attacks_reports_and_does_nothing_twice(tmp_path, monkeypatch, capsys):
    for module in (demo, demo_config):
        monkeypatch.setattr(module, "STANDARD_ITERS", 12)
        monkeypatch.setattr(module, "ADVERSARIAL_ITERS", 10)
    monkeypatch.setattr(demo_config, "COUNTS", {"train": 8, "val": 2, "test": 4})
    monkeypatch.setattr(demo, "RADII", ("4/255",))
    monkeypatch.setattr(demo, "STEPS", 2)
    report = demo.run_demo(tmp_path)
    page = report.read_text()
    assert report == tmp_path / "report.html" and "standard" in page and "robust" in page
    for name in ("standard", "robust"):
        summary = json.loads((tmp_path / f"evaluation-{name}" / "summary.json").read_text())
        assert [r["attack"] for r in summary] == ["clean", "CEPGD", "TsallisPGD", "UniformNoise", "worst_case"]
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
    for module in (demo, demo_config):
        monkeypatch.setattr(module, "STANDARD_ITERS", 12)
    monkeypatch.setattr(demo_config, "COUNTS", {"train": 8, "val": 2, "test": 4})
    scenes = demo.write_demo_scenes(tmp_path / "scenes")
    config = demo.demo_config(scenes, tmp_path / "standard", adversarial=False)
    with pytest.raises(RuntimeError, match="stop"):
        monkeypatch.setattr("segrobust.hooks.ReseedHook.after_train_iter", stop_at(7), raising=False)
        demo._train(config, 12)
    monkeypatch.setattr("segrobust.hooks.ReseedHook.after_train_iter", lambda *_, **__: None)
    weights = demo._train(config, 12)
    log = "".join(file.read_text() for file in (tmp_path / "standard").rglob("*.log"))
    assert weights.is_file() and "resumed" in log.lower()


def stop_at(iteration: int):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == iteration:
            raise RuntimeError("stop")

    return after_train_iter
