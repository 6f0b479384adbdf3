"""Evaluations of a shipped model on made-up scenes: the config, the command line, and processes that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from segrobust import load_segmenter
from segrobust.cli import main
from segrobust.datasets.scenes import render_scene
from segrobust.models.shipped import shipped_model
from segrobust.runs.folder import RunFolder
from tests.runs.killable import free_port

ROOT = Path(__file__).resolve().parents[2]
SIZE = (96, 128)
CONFIG = """
_base_ = [{base!r}]
declared = None
test_dataloader = dict(
    _delete_=True, batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="ImageLabelFolder", data_root={data!r}, split="test", test_mode=True,
                 pipeline=[dict(type="LoadPair"), dict(type="PackSegInputs")]),
)
"""
ATTACKS = ("tsallis-pgd", "sharp-pgd", "alma-prox")  # two step controls with random starts, and a minimum norm
PATIENCE = 240  # seconds


@dataclass(frozen=True)
class Scenes:
    """A config of a shipped model on scenes, and its weights."""

    config: Path
    weights: Path

    def words(
        self,
        work_dir: Path,
        *options: object,
        attacks: tuple[str, ...] = ATTACKS,
        steps: int = 10,
        checks: bool = False,
    ) -> list[str]:
        """The arguments of an evaluation; ``options`` come last and so win."""
        words = ["evaluate", self.config, self.weights, "--work-dir", work_dir, "--attack", *attacks, "--eps", "4/255"]
        words += ["--steps", steps, "--batch-size", 2, "--no-pictures", *([] if checks else ["--no-checks"])]
        return [str(word) for word in [*words, *options]]

    def evaluate(self, work_dir: Path, *options: object, **changes: object) -> Path:
        """An evaluation in this process."""
        assert main(self.words(work_dir, *options, **changes)) == 0
        return work_dir

    def start(self, work_dir: Path, *options: object, processes: int = 1, **changes: object) -> list[subprocess.Popen]:
        """The processes of an evaluation, as torchrun would start them."""
        command = [sys.executable, "-m", "segrobust", *self.words(work_dir, *options, **changes)]
        shared = {**os.environ, "PYTHONPATH": str(ROOT)}
        if processes > 1:
            shared |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {} for rank in range(processes)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return [subprocess.Popen(command, cwd=work_dir.parent, env=shared | own, **pipes) for own in ranks]


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit status and standard error of each."""
    try:
        said = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, error) for process, error in zip(processes, said, strict=True)]


def kill_after(process: subprocess.Popen, folder: Path, count: int) -> int:
    """SIGKILL once ``count`` rows are stored; how many rows it leaves."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and stored(folder) < count and time.monotonic() < end:
        time.sleep(0.005)
    assert process.poll() is None, f"it ended before it was killed: {process.communicate()[1]}"
    process.kill()
    process.communicate()
    return stored(folder)


def stored(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("rows/rank-*.jsonl"))


def identity(folder: Path) -> dict:
    return RunFolder(folder).read_json("run.json")["identity"]


def write_scenes_for(name: str, folder: Path, count: int) -> Scenes:
    """Scenes under the labels that a shipped model gives them on a CPU, but for a void border and some wrong ones."""
    entry, data = shipped_model(name), folder / "data"
    model = load_segmenter(name, device="cpu")
    for kind in ("images", "labels"):
        (data / kind / "test").mkdir(parents=True)
    for number in range(count):
        image, objects = render_scene(SIZE, 0, "test", number)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            label = model(pixels).argmax(1)[0].numpy().astype(np.uint8)
        label[:24, :32] = (label[:24, :32] + 1) % model.num_classes
        label[:2], label[objects == 255] = 255, 255
        Image.fromarray(image).save(data / "images" / "test" / f"{number}.png")
        Image.fromarray(label).save(data / "labels" / "test" / f"{number}.png")
    (data / "classes.json").write_text(json.dumps({"classes": list(model.class_names)}))
    config = folder / "scenes.py"
    config.write_text(CONFIG.format(base=str(entry.config_path), data=str(data)))
    return Scenes(config, entry.weights_path)
