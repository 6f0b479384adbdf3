"""Cost of one attack step over one bare forward + input-gradient backward of the same model.

    python benchmarks/attack_step.py [--threads 2] [--rounds 15] [--models camvid deeplabv3]

A step is what an attack does per iteration: forward, logit gradient of its weight, per-image statistics, backward.
The bare pass is the forward and the backward of a constant logit gradient. Both run alternately, in one process, on
the same images and memory format; time is the median of the per-round ratios, memory the peak of one pass each.
On a GPU, peak memory is torch's own; on a CPU it is the largest sum of live tensor storage that a profiler sees.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from segrobust import Segmenter, load_segmenter
from segrobust.attacks import ATTACKS, build_attack
from segrobust.attacks.alma_prox import ProximalSplitting
from segrobust.attacks.base import Problem
from segrobust.attacks.gradient import Engine
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.minimum_norm import Closest
from segrobust.attacks.segmentation import Goal
from segrobust.core.draws import Draws
from segrobust.models.segmenter import frozen_eval

PROGRESS = 0.5
PROXIMAL, PROXIMAL_STEPS = ("ALMAProx", "ALMAProx:published"), 5


def camvid(device: str):
    model = load_segmenter("configs/fpn/fpn_r18w24_1xb8-std-9k_camvid-360x480.py", device=device)
    return "CamVid FPN-R18w24 360x480, batch 4", model, torch.rand(4, 3, 360, 480, device=device)


def shipped(device: str):
    model = load_segmenter("camvid-fpn-r18w24-pgdat-linf4-180x240", device=device)
    return "CamVid FPN-R18w24 180x240, batch 8", model, torch.rand(8, 3, 180, 240, device=device)


def deeplabv3(device: str):
    from torchvision.models.segmentation import deeplabv3_resnet50

    net = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21)
    model = Segmenter.wrap(net, num_classes=21, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).to(device)
    return "torchvision DeepLabV3-R50 512x512, batch 1", model, torch.rand(1, 3, 512, 512, device=device)


MODELS = {"camvid": camvid, "shipped": shipped, "deeplabv3": deeplabv3}


def bare_pass(model, images):
    points = images.detach().requires_grad_()
    logits = model(points)
    torch.autograd.grad(logits, points, torch.ones_like(logits))


def attack_step(engine, images, attack):
    attack.measure_gradient(engine, images, PROGRESS)


def proximal_step(engine, images, name):
    """Full iterations of ALMAProx, which do not all cost the same: margins, multipliers, step, prox, what is kept."""
    attack = build_attack(name, steps=10_000, apsr=0.5)  # at its goal from the start: the norm shrinks too
    problem = Problem(engine, images, Draws.of((0,) * len(images), images.device))
    proximal = ProximalSplitting(attack, problem, Closest(attack, problem), attack.steps, warm=False)
    step = itertools.count()

    def iterations():
        for _ in range(PROXIMAL_STEPS):
            proximal.iterate(next(step))

    return iterations


def seconds(run) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_bytes(run) -> int:
    """Largest sum of tensor memory during ``run``, over what was there before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    live = peak = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def measure(name: str, device: str, rounds: int) -> Table:
    title, model, images = MODELS[name](device)
    model.eval()
    generator = torch.Generator(device=device).manual_seed(0)
    shape = (len(images), *images.shape[2:])
    labels = torch.randint(0, model.num_classes, shape, generator=generator, device=device)
    goal = Goal(labels, torch.rand(shape, generator=generator, device=device) > 0.05)
    attacks = [build_attack(name) for name, cls in ATTACKS.items() if issubclass(cls, GradientAttack)]
    engine = Engine(model, goal)  # one for all: it looks at its first logits more closely, once per attack
    runs = {attack.name: (lambda a=attack: attack_step(engine, images, a)) for attack in attacks}
    runs |= {name: proximal_step(engine, images, name) for name in PROXIMAL}
    with frozen_eval(model):
        bare = lambda: bare_pass(model, images)  # noqa: E731
        ratios = compare(bare, runs, rounds)
        memory = {name: peak_bytes(run) for name, run in {"bare": bare, **runs}.items()}
    table = Table(title=title)
    for column in ("step", "time / bare", "lowest .. highest", "peak MiB", "memory / bare"):
        table.add_column(column, justify="left" if column == "step" else "right")
    table.add_row("bare pass", f"{1e3 * ratios.pop('bare')[0]:.0f} ms", "", f"{memory['bare'] / 2**20:.0f}", "")
    for name, values in ratios.items():
        cells = f"{statistics.median(values):.3f}", f"{min(values):.3f} .. {max(values):.3f}"
        table.add_row(name, *cells, f"{memory[name] / 2**20:.0f}", f"{memory[name] / memory['bare']:.3f}")
    return table


def compare(bare, runs: dict, rounds: int) -> dict[str, list[float]]:
    """Per step the ratio of its time to the mean of the two bare passes around it, round by round."""
    for run in (bare, *runs.values()):
        run()
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    times = []
    for _ in range(rounds):
        before = seconds(bare)
        for name, run in runs.items():
            own, after = seconds(run), seconds(bare)
            ratios[name].append(2 * own / (before + after) / (PROXIMAL_STEPS if name in PROXIMAL else 1))
            times.append(after)
            before = after
    return {"bare": [statistics.median(times)], **ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=110)
    for name in options.models:
        console.print(measure(name, options.device, options.rounds))
    console.print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, {options.rounds} rounds")


if __name__ == "__main__":
    main()
