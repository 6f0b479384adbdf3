"""The worst case of the shipped CamVid models: Standard, SEA with twice its passes, and each attack alone.

    python benchmarks/ensemble.py [--models std robust] [--eps 1/255 2/255 4/255 8/255] [--steps 450] [--num-images 48]
    python benchmarks/ensemble.py --split val --num-images 8 --attacks Standard SEA       # to choose settings
    torchrun --nproc_per_node 2 benchmarks/ensemble.py                                   # two processes, same rows

``--steps`` are backward passes per image; ``Standard x2`` and ``SEA`` get twice as many, the latter in equal parts for
its three losses. aAcc is that of each image's worst result. mIoU is given by its three readings: every image at its
lowest aAcc, at its own lowest mIoU, and what the greedy search over the candidates found, with a 95 % bootstrap
interval; attacks that return one result per image have one reading. n: on how many images the first of --attacks takes
more pixels, and on how many fewer, than this one. An attack is seen at each radius alone: nothing is taken over from
smaller ones. Passes are means over images, which leave Standard when nothing is right any more. All networks are
kept in channels-last memory.

Each (model, attack, steps) is a run folder: kill the script and start it again, it goes on.
"""

from __future__ import annotations

import argparse
import re
from fractions import Fraction
from pathlib import Path

from accelerate import PartialState
from minimum_norm import MODELS
from rich.console import Console
from rich.table import Table

from segrobust import evaluate, load_segmenter
from segrobust.analysis.broken import shares_of
from segrobust.commands.data import source_from_config
from segrobust.core.rows import ATTACK
from segrobust.core.units import format_eps
from segrobust.models.mm import load_config
from segrobust.runs.folder import RunFolder

ATTACKS = {  # attack, and its own number of steps over --steps
    "Standard": ("Standard", Fraction(1)),
    "Standard x2": ("Standard", Fraction(2)),
    "SEA": ("SEA", Fraction(2, 3)),
    "SharpPGD": ("SharpPGD", Fraction(1)),
    "BalancedSharpPGD": ("BalancedSharpPGD", Fraction(1)),
    "TsallisPGD": ("TsallisPGD", Fraction(1)),
    "SegPGD": ("SegPGD", Fraction(1)),
    "CosPGD": ("CosPGD", Fraction(1)),
    "JSPGD": ("JSPGD", Fraction(1)),
    "MaskedPGD": ("MaskedPGD", Fraction(1)),
    "BalancedPGD": ("BalancedPGD", Fraction(1)),
}
COLUMNS = (
    "model",
    "eps",
    "steps",
    "attack",
    "aAcc",
    "mIoU: at aAcc",
    "per image",
    "greedy",
    "95 %",
    "n",
    "passes",
    "s",
)


def run(model: str, name: str, steps: int, options: argparse.Namespace) -> list[dict]:
    """Records of one attack on one model, by radius, each with the pixel error of every image."""
    attack, factor = options.known[name]
    config = load_config(MODELS[model], {"test_dataloader.dataset.split": options.split})
    folder = options.work_dir / re.sub(r"\W+", "-", f"{options.split} {model} {options.num_images} {name} {steps}")
    records = evaluate(
        load_segmenter(MODELS[model]),
        source_from_config(config, "test", options.num_images),
        [attack],
        options.eps,
        work_dir=folder,
        steps=round(steps * factor),
        batch_size=options.batch_size,
        attack_defaults=config.attack_defaults,
        checks=False,
        pictures=False,
        quiet=True,
    )
    answers = [row for row in RunFolder(folder).rows() if not row.condition.candidate]
    errors = {(one.name, one.norm, one.eps): shares for one, shares in shares_of(answers).items()}
    found = [record for record in records if record["study"] == ATTACK]
    return [record | {"errors": errors[record["name"], record["norm"], record["eps"]]} for record in found]


def add_options(parser: argparse.ArgumentParser, split: str, num_images: int) -> None:
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--eps", nargs="+", default=["1/255", "2/255", "4/255", "8/255"])
    parser.add_argument("--num-images", type=int, default=num_images)
    parser.add_argument("--split", choices=("val", "test"), default=split)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/benchmark-ensemble"))


def compare(options: argparse.Namespace) -> None:
    """Run ``options.attacks``, a selection of ``options.known``: (attack, steps over ``options.steps``) by name."""
    rows = []
    for model in options.models:
        for steps in options.steps:
            for name in options.attacks:
                rows += [(model, steps, name, record) for record in run(model, name, steps, options)]
    if PartialState().is_main_process:
        print_table(rows, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "test", 48)
    parser.add_argument("--steps", nargs="+", type=int, default=[450])
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    compare(parser.parse_args(namespace=argparse.Namespace(known=ATTACKS)))


def print_table(rows: list[tuple], options: argparse.Namespace) -> None:
    """One block per model, radius and number of steps, the strongest attack by aAcc first."""
    table = Table(title=f"Linf, {options.num_images} CamVid {options.split} images, percent")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("model", "attack") else "right")
    order = sorted(rows, key=lambda row: (options.models.index(row[0]), row[3]["eps"], row[1], row[3]["aAcc"]))
    first = {(m, record["eps"], n): record["errors"] for m, n, name, record in rows if name == options.attacks[0]}
    before = None
    for model, steps, name, record in order:
        block = (model, record["eps"], steps)
        if before not in (None, block):
            table.add_section()
        before = block
        table.add_row(model, format_eps(record["eps"], "Linf"), str(steps), name, *cells(record, first[block]))
    Console(width=140).print(table)


def cells(record: dict, first: dict[int, float]) -> list[str]:
    greedy = "mIoU_greedy" if "mIoU_greedy" in record else "mIoU"
    low, high = record["ci"][greedy] or (None, None)
    numbers = [record["aAcc"], record["mIoU"], record.get("mIoU_per_image", record["mIoU"]), record[greedy]]
    weaker, stronger = (sum(sign * (first[n] - mine) > 0 for n, mine in record["errors"].items()) for sign in (1, -1))
    return [
        *map(percent, numbers),
        f"{percent(low)} .. {percent(high)}",
        f"{weaker} / {stronger}",
        f"{record['forwards']:.0f} + {record['backwards']:.0f}",
        f"{record['seconds']:.0f}",
    ]


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
