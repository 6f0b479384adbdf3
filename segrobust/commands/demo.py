"""``segrobust demo``: the whole chain on synthetic street scenes, in a few minutes on two CPU cores.

Scenes are made, a small segmenter is trained on them twice, the second time with TsallisPGD in the loop, both are
attacked, and one report compares them. Every part goes on where an interrupted demo stopped.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from segrobust.commands.demo_config import ADVERSARIAL_ITERS, EPS, STANDARD_ITERS, demo_config, write_demo_scenes
from segrobust.commands.evaluation import evaluate

ATTACKS = ("UniformNoise", "CEPGD", "TsallisPGD")
RADII = ("1/255", "2/255", EPS, "8/255")
STEPS = 20


def run_demo(work_dir: str | Path = "work_dirs/demo") -> Path:
    """Run the demo below ``work_dir`` and return the report's path."""
    from segrobust.report import build_report
    from segrobust.report.table import print_table
    from segrobust.report.trust import load_trust

    work_dir, console, started = Path(work_dir), Console(), time.monotonic()

    def say(text: str) -> None:
        console.rule(f"[{time.monotonic() - started:.0f} s] {text}", align="left")

    say("writing synthetic street scenes")
    scenes = write_demo_scenes(work_dir / "scenes")
    say("training the standard model")
    standard = _train(demo_config(scenes, work_dir / "standard", adversarial=False), STANDARD_ITERS)
    say(f"training the robust model: the same, attacked by TsallisPGD at {EPS} in every iteration")
    config = demo_config(scenes, work_dir / "robust", adversarial=True)
    robust = _train({**config, "load_from": str(standard)}, ADVERSARIAL_ITERS)
    summaries, runs = {}, []
    for name, weights in (("standard", standard), ("robust", robust)):
        say(f"attacking the {name} model")
        runs.append(work_dir / f"evaluation-{name}")
        summaries[name] = _evaluate(name, config, weights, runs[-1])
    print_table(summaries, console, {name: load_trust(folder) for name, folder in zip(summaries, runs, strict=True)})
    report = build_report(runs, work_dir / "report.html")
    say("done")
    console.print(f"report: {report}", soft_wrap=True, markup=False)
    return report


def _train(config: dict, iterations: int) -> Path:
    from mmengine import Config

    from segrobust.commands.training import train

    weights = Path(config["work_dir"]) / f"iter_{iterations}.pth"
    pointer = weights.with_name("last_checkpoint")  # written after the checkpoint that it names
    if not pointer.is_file() or Path(pointer.read_text().strip()).name != weights.name:
        train(Config(config), resume=pointer.is_file())
    return weights


def _evaluate(name: str, config: dict, weights: Path, folder: Path) -> list[dict]:
    from mmengine import Config

    from segrobust.commands.data import source_from_config
    from segrobust.models.load import load_segmenter

    config = Config(config)
    model = load_segmenter(config, weights)
    model.name = name
    return evaluate(model, source_from_config(config), ATTACKS, RADII, work_dir=folder, steps=STEPS)
