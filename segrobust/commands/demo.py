"""``segrobust demo``: the whole chain on synthetic street scenes, in a few minutes on two CPU cores.

Scenes are made, a small segmenter is trained on them twice, the second time with TsallisPGD in the loop, both are
attacked, and one report compares them. Every part goes on where an interrupted demo stopped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from segrobust.commands.data import source_from_config
from segrobust.commands.evaluation import evaluate
from segrobust.commands.training import train
from segrobust.datasets.scenes import write_scenes
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.shipped import FOLDER as CONFIGS
from segrobust.report import build_report
from segrobust.report.table import print_table
from segrobust.report.trust import load_trust

if TYPE_CHECKING:
    from mmengine import Config

SCENES = dict(train=240, val=16, test=32, size=(64, 96))
ATTACKS = ("UniformNoise", "CEPGD", "TsallisPGD")
RADII = ("1/255", "2/255", "4/255", "8/255")
STEPS = 20


def run_demo(work_dir: str | Path = "work_dirs/demo") -> Path:
    """Run the demo below ``work_dir`` and return the report's path."""
    work_dir, console, started = Path(work_dir), Console(), time.monotonic()

    def say(text: str) -> None:
        console.rule(f"[{time.monotonic() - started:.0f} s] {text}", align="left")

    say("writing synthetic street scenes")
    write_scenes(work_dir / "scenes", **SCENES)
    weights, summaries, runs = {}, {}, []
    for name, how in (("standard", ""), ("robust", ": the same, attacked by TsallisPGD in every iteration")):
        say(f"training the {name} model{how}")
        weights[name] = train_demo(name, work_dir, load_from=weights.get("standard"))
    for name in weights:
        say(f"attacking the {name} model")
        runs.append(work_dir / f"evaluation-{name}")
        config = demo_config(name, work_dir)
        model = load_segmenter(config, weights[name])
        model.name = name
        source = source_from_config(config)
        summaries[name] = evaluate(model, source, ATTACKS, RADII, work_dir=runs[-1], steps=STEPS, quiet=True)
    print_table(summaries, console, {name: load_trust(folder) for name, folder in zip(summaries, runs, strict=True)})
    report = build_report(runs, work_dir / "report.html")
    say("done")
    console.print(f"report: {report}", soft_wrap=True, markup=False)
    return report


def demo_config(name: str, work_dir: Path) -> Config:
    """The shipped config ``demo_<name>.py`` on the scenes in ``work_dir``."""
    scenes = str(work_dir / "scenes")
    datasets = ("train_dataloader.dataset.dataset", "val_dataloader.dataset", "test_dataloader.dataset")
    return load_config(CONFIGS / f"demo_{name}.py", {f"{dataset}.data_root": scenes for dataset in datasets})


def train_demo(name: str, work_dir: Path, load_from: Path | None) -> Path:
    """Train one of the two models, or go on with it, and return its weights."""
    config, folder = demo_config(name, work_dir), work_dir / name
    config.load_from = load_from and str(load_from)
    weights = folder / f"iter_{config.train_cfg.max_iters}.pth"
    pointer = folder / "last_checkpoint"  # written after the checkpoint that it names
    if not pointer.is_file() or Path(pointer.read_text().strip()).name != weights.name:
        train(config, work_dir=folder, resume=pointer.is_file(), verbose=False)
    return weights
