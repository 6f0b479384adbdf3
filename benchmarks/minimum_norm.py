"""Minimum-norm attacks at equal passes on the shipped CamVid models: share found and median norm at 99 % APSR.

    python benchmarks/minimum_norm.py [--models std robust] [--steps 100 200 500] [--num-images 32]
    torchrun --nproc_per_node 2 benchmarks/minimum_norm.py        # two processes, the same rows

Every attack gets the same number of forward + backward passes per image; DAG stops at its first success, which is
counted for it. Each (model, steps) is a run folder: kill the script and start it again, it goes on. Failures count as
infinite in the medians; intervals are 95 % bootstrap intervals over images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from accelerate import PartialState
from rich.console import Console
from rich.table import Table

from segrobust import evaluate, load_segmenter
from segrobust.commands.data import source_from_config
from segrobust.models.mm import load_config

MODELS = {"std": "camvid-fpn-r18w24-std-180x240", "robust": "camvid-fpn-r18w24-pgdat-linf4-180x240"}
ATTACKS = ("ALMAProx", "ALMAProx:published", "FMN", "DAG", "PDPGD", "PGDBisection")
RADII = ("1/255", "4/255", "16/255")


def run(model: str, steps: int, attacks: list[str], num_images: int, work_dir: Path) -> list[dict]:
    """Records of one model at one budget, one folder per attack so that attacks can be added later."""
    config = load_config(MODELS[model])
    source = source_from_config(config, "test", num_images)
    records = []
    for attack in attacks:
        folder = work_dir / f"{model}-{steps}-{num_images}-{attack.replace(':', '-')}"
        summary = evaluate(
            load_segmenter(MODELS[model]), source, [attack], RADII,
            work_dir=folder, steps=steps, batch_size=8, checks=False, pictures=False, quiet=True,
        )  # fmt: skip
        records += [record for record in summary if "median_distance" in record]
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", nargs="+", type=int, default=[100, 200, 500])
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--num-images", type=int, default=32)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/benchmark-minimum-norm"))
    options = parser.parse_args()
    table = Table(title=f"Linf, 99 % APSR, {options.num_images} CamVid test images, norms in 1/255")
    for column in ("model", "steps", "attack", "found %", "median", "95 %", "8-bit", "forwards", "backwards", "s"):
        table.add_column(column, justify="left" if column in ("model", "attack") else "right")
    for steps in options.steps:
        for model in options.models:
            for record in run(model, steps, options.attacks, options.num_images, options.work_dir):
                table.add_row(model, str(steps), *cells(record))
    if PartialState().is_main_process:
        Console(width=130).print(table)


def cells(record: dict) -> list[str]:
    low, high = record["ci"].get("median_distance") or (None, None)
    return [
        record["name"],
        f"{record['found']:.0f}",
        in_255(record["median_distance"]),
        f"{in_255(low)} .. {in_255(high)}",
        in_255(record.get("median_distance_8bit")),
        f"{record['forwards']:.0f}",
        f"{record['backwards']:.0f}",
        f"{record['seconds']:.0f}",
    ]


def in_255(distance: float | None) -> str:
    return "inf" if distance is None else f"{255 * distance:.2f}"


if __name__ == "__main__":
    main()
