"""ALMA-prox of adv-lib beside ours, on the same model, images and number of passes.

    pip install --no-deps adv-lib
    python benchmarks/against_adv_lib.py [--model standard] [--steps 100 300] [--num-images 8]
    python benchmarks/against_adv_lib.py --benchmark configs/benchmarks/own_network.py --model enet-cityscapes

Models are those of a benchmark file, each with its own data. adv-lib (BSD-3) is a peer to compare with and no
dependency. It logs to visdom, which it imports and this script does not need: where visdom is missing, an empty module
stands in. Its prox is left uncompiled. Every image returned is measured here, once more, in float32; an image that is
not found counts as infinite in the median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import torch
from rich.console import Console
from rich.table import Table

from segrobust import build_attack
from segrobust.commands.benchmark_cells import Benchmarking, cells_of
from segrobust.commands.benchmark_file import read_benchmark
from segrobust.commands.evaluate import model_and_data
from segrobust.models.segmenter import frozen_eval

APSR = 0.99


def adv_lib_attack():
    if find_spec("adv_lib") is None:
        raise SystemExit("adv-lib is not installed: pip install --no-deps adv-lib")
    if find_spec("visdom") is None:
        sys.modules["visdom"] = ModuleType("visdom")
    from adv_lib.attacks.segmentation import alma_prox

    def attack(model, image, label, steps):
        with frozen_eval(model):
            return alma_prox(model, image, label, masks=label != 255, num_steps=steps)

    return attack


def ours(spec: str):
    return lambda model, image, label, steps: build_attack(spec, steps=steps)(model, image, label).images


ATTACKS = {
    "adv-lib": adv_lib_attack,
    "reference": lambda: ours("ALMAProx:published"),
    "ours": lambda: ours("ALMAProx"),
}


def distance_if_found(model, image, label, attacked) -> float:
    """Linf distance in 1/255, infinite where fewer than 99 % of the valid pixels are wrong."""
    with torch.no_grad():
        wrong = (model(attacked).argmax(1) != label) & (label != 255)
    found = wrong.sum() >= APSR * (label != 255).sum()
    return 255 * float((attacked - image).abs().amax()) if found else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", type=Path, default=Path("configs/benchmarks/camvid.py"), metavar="FILE")
    parser.add_argument("--model", default="standard")
    parser.add_argument("--steps", nargs="+", type=int, default=[100, 300])
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    options = parser.parse_args()
    asked = Benchmarking.of(file=options.benchmark, only=(f"{options.model}/*",))
    cell = cells_of(read_benchmark(options.benchmark), asked)[0]
    model, source = model_and_data(cell.inputs, cell.network, options.num_images, ())
    device = next(model.parameters()).device
    attacks = {name: build() for name, build in ATTACKS.items() if name in options.attacks}
    table = Table(title=f"{options.model}, {len(source)} images, Linf, 99 % APSR, norms in 1/255")
    for column in ("steps", "attack", "found", "median", "seconds"):
        table.add_column(column, justify="left" if column == "attack" else "right")
    for steps in options.steps:
        for name, attack in attacks.items():
            started, distances = time.perf_counter(), []
            for index in range(len(source)):
                sample = source[index]
                image, label = sample.image[None].to(device), sample.label[None].to(device)
                distances.append(distance_if_found(model, image, label, attack(model, image, label, steps)))
            found = sum(distance < float("inf") for distance in distances)
            median = f"{statistics.median(distances):.2f}"
            table.add_row(str(steps), name, f"{found}/{len(source)}", median, f"{time.perf_counter() - started:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
