"""What folded batch normalisation and channels-last memory give: attack steps of each form over the plain one.

    python benchmarks/inference_form.py [--threads 2] [--rounds 12] [--model camvid-fpn-r18w24-std-180x240]

All forms of one model run alternately, in one process, on the same images: the forward that is reported, and the step
that attacks repeat (forward, logit gradient, statistics, backward). Time is the median of the per-round ratios to the
plain form, which is contiguous memory with batch normalisations as they are. Each form's predictions were checked.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from attack_step import attack_step, seconds
from rich.console import Console
from rich.table import Table

from segrobust import build_attack, load_segmenter
from segrobust.attacks.gradient import Engine
from segrobust.attacks.segmentation import Goal
from segrobust.models.inference_form import inference_form

FORMS = {
    "plain": {},
    "channels-last": {"channels_last": True},
    "folded": {"fold_bn": True},
    "folded, channels-last": {"fold_bn": True, "channels_last": True},
}


def runs_of(model, images: torch.Tensor, labels: torch.Tensor) -> dict[str, dict]:
    """What to time, by kind and form."""
    attack, goal = build_attack("TsallisPGD"), Goal(labels, torch.ones_like(labels, dtype=torch.bool))
    runs: dict[str, dict] = {"forward": {}, "attack step": {}}
    for name, form in FORMS.items():
        net = inference_form(model, images, **form).requires_grad_(False)  # as attacks have it
        engine = Engine(net, goal)
        runs["forward"][name] = lambda net=net: net(images)
        runs["attack step"][name] = lambda engine=engine: attack_step(engine, images, attack)
    return runs


def measure(runs: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds per form, round by round."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="camvid-fpn-r18w24-std-180x240")
    parser.add_argument("--size", type=int, nargs=2, default=(180, 240), metavar=("H", "W"))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_segmenter(options.model, device=options.device, channels_last=False)
    shape = (options.batch_size, *options.size)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(shape[0], 3, *shape[1:], generator=generator).to(options.device)
    labels = torch.randint(0, model.num_classes, shape, generator=generator).to(options.device)
    table = Table(title=f"{options.model}, {shape[0]} images of {shape[1]}x{shape[2]}")
    for column in ("", "form", "ms", "time / plain", "lowest .. highest"):
        table.add_column(column, justify="left" if column in ("", "form") else "right")
    for kind, runs in runs_of(model, images, labels).items():
        with torch.set_grad_enabled(kind != "forward"):
            times = measure(runs, options.rounds)
        for name, own in times.items():
            ratios = [one / plain for one, plain in zip(own, times["plain"], strict=True)]
            cells = f"{1e3 * statistics.median(own):.1f}", f"{statistics.median(ratios):.3f}"
            table.add_row(kind, name, *cells, f"{min(ratios):.3f} .. {max(ratios):.3f}")
    console = Console(width=110)
    console.print(table)
    console.print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, {options.rounds} rounds")


if __name__ == "__main__":
    main()
