"""Cost of an adversarial training step over bare passes and an ordinary step of the same network, batch and machine.

    python benchmarks/training_step.py [--config FILE] [--attacks CEPGD ALMAProx] [--steps 3] [--repeats 15] [--forms]

The bound is 1.08 x (K forward + input-gradient passes and one ordinary training step). A bare pass is one forward of
the network that is trained, in the mode in which the hook attacks (eval, frozen, float32), and the backward of a
constant logit gradient to the images. An ordinary step is mmengine's ``train_step`` on images that are on the device.
An adversarial step is the ``AdversarialTrainingHook`` and the same ``train_step``; where the hook measures its images
only every so many iterations, one iteration in so many is that dearer one. All follow each other in every repeat, in
one process, the K bare passes in a row; a ratio is of one repeat, and the median of the repeats counts. Wall time and
that of the process are told; on a CPU the second decides, which is less disturbed by what else the machine does. Exit
status 1: above the bound.

With ``--forms`` the cheaper forms of training with the first attack stand beside it: the time of an iteration over that
of the plain form. They are told and not judged.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from mmengine.hooks import Hook
from rich.console import Console
from rich.table import Table
from torch import Tensor

from segrobust.datasets.scenes import render_scene
from segrobust.hooks import AdversarialTrainingHook, FreeAdversarialTrainingHook
from segrobust.models.load import own_segmenter
from segrobust.models.mm import import_mmseg, load_config
from segrobust.models.network_io import in_channels_last
from segrobust.models.precision import float32_unless_autocast
from segrobust.models.pretrained import without_pretrained
from segrobust.models.segmenter import Segmenter, frozen_eval
from segrobust.models.trainable import build_trainable, live_segmenter

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "fpn" / "fpn_r18w24_1xb8-pgdat-linf4-s3-1500_camvid-180x240.py"
BOUND = 1.08
PGD = dict(eps="4/255", optimiser="pgd", radius_reduction=False, keep="last")
CAPPED = dict(step_size="1/255", step_decay=1.0, eps_max="4/255", target_apsr=0.1)
REPLAYS = 4
ATTACKS = ("CEPGD", "TsallisPGD", "SharpPGD", "SegPGD", "CosPGD", "ALMAProx")


def adversary(name: str, steps: int) -> dict[str, Any]:
    """The attack as the shipped recipes have it (``configs/_base_/attacks``)."""
    return dict(type=name, steps=steps, **(CAPPED if name == "ALMAProx" else PGD))


def forms(attack: dict[str, Any]) -> dict[str, Hook]:
    """The plain form first; one step from the kept perturbation is what ATTA does."""
    one = {**attack, "steps": 1}
    return {
        "plain": AdversarialTrainingHook(attack),
        f"free, {REPLAYS} replays": FreeAdversarialTrainingHook("4/255", replays=REPLAYS),
        "kept perturbation": AdversarialTrainingHook(attack, keep_perturbations=True),
        "kept perturbation, 1 step": AdversarialTrainingHook(one, keep_perturbations=True),
        "bf16 attack": AdversarialTrainingHook(attack, precision="bf16"),
        "attack at half size": AdversarialTrainingHook(attack, scale=0.5),
        "bf16 attack at half size": AdversarialTrainingHook(attack, precision="bf16", scale=0.5),
    }


class Training:
    """What mmengine's loop calls in an iteration, on one batch of synthetic scenes."""

    def __init__(self, config: Any, device: torch.device, size: tuple[int, int] | None = None) -> None:
        import_mmseg()
        from mmengine import ConfigDict
        from mmengine.logging import MMLogger
        from mmengine.optim import build_optim_wrapper
        from mmseg.registry import MODELS

        MMLogger.get_current_instance().setLevel("WARNING")  # else a line for every parameter of the optimiser
        torch.manual_seed(0)
        own = own_segmenter(config.model) is not None
        settings = config.model.to_dict() if own else without_pretrained(config.model.to_dict())
        network = build_trainable(config) if own else MODELS.build(ConfigDict(settings))
        network = in_channels_last(network.to(device)).train()
        hub = SimpleNamespace(update_scalar=lambda name, value: None, update_info=lambda name, value: None)
        self.runner = SimpleNamespace(model=network, iter=0, rank=0, world_size=1, seed=0, message_hub=hub, hooks=[])
        optimiser = config.optim_wrapper.to_dict()
        optimiser["optimizer"]["lr"] = 1e-6  # hundreds of steps on one batch
        self.runner.optim_wrapper = build_optim_wrapper(network, optimiser)
        size, count = size or tuple(config.crop_size), config.train_dataloader.batch_size
        self.segmenter, self.device = live_segmenter(network), device
        sampler = SimpleNamespace(batch_size=count, repeats=REPLAYS)
        data = SimpleNamespace(pipeline=SimpleNamespace(transforms=[]))
        self.runner.train_dataloader = SimpleNamespace(batch_size=count, sampler=sampler, dataset=data)
        scenes = [render_scene(size, 0, "train", number) for number in range(count)]
        self.images = [torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).to(device) for image, _ in scenes]
        self.samples = [_sample(str(n), torch.from_numpy(scene[1]), self.segmenter) for n, scene in enumerate(scenes)]

    def bare(self, passes: int) -> None:
        images = torch.stack(self.images).flip(1).float() / 255
        with float32_unless_autocast(self.device), frozen_eval(self.segmenter):
            for _ in range(passes):
                points = images.detach().requires_grad_()
                logits = self.segmenter(points)
                torch.autograd.grad(logits, points, torch.ones_like(logits))

    def train_step(self, batch: dict[str, Any]) -> Any:
        return self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)

    def ordinary(self) -> None:
        self.train_step({"inputs": self.images, "data_samples": self.samples})

    def iteration(self, hook: Hook, number: int) -> None:
        self.runner.iter = number
        batch = {"inputs": self.images, "data_samples": self.samples}
        hook.before_train_iter(self.runner, number, batch)
        hook.after_train_iter(self.runner, number, batch, self.train_step(batch))

    def prepared(self, hook: Hook) -> Hook:
        hook.before_train(self.runner)
        return hook


def _sample(name: str, label: Tensor, segmenter: Segmenter) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    label = torch.where(label == 255, segmenter.ignore_index, label.long() % segmenter.num_classes)
    size = tuple(label.shape)
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, img_path=name))
    sample.gt_sem_seg = PixelData(data=label[None])
    return sample


# --- time


class Times(NamedTuple):
    """Seconds."""

    wall: float
    process: float


def seconds(run: Callable[[], Any]) -> Times:
    """From an idle device to an idle device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    wall, process = time.perf_counter(), time.process_time()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Times(time.perf_counter() - wall, time.process_time() - process)


def rounds(runs: dict[str, Callable[[], Any]], repeats: int) -> list[dict[str, Times]]:
    """All runs one after the other, so many times, after one that does not count."""
    for run in runs.values():
        run()
    return [{name: seconds(run) for name, run in runs.items()} for _ in range(repeats)]


def iterations(training: Training, name: str, hook: Hook) -> dict[str, Callable[[], Any]]:
    """An iteration of a hook and, where it differs, one in which it measures what it made."""
    training.prepared(hook)
    attack, runs = getattr(hook, "attack", None), {name: lambda: training.iteration(hook, 1)}
    if attack is not None and attack.final_forward_is_optional:
        runs[f"{name}, measured"] = lambda: training.iteration(hook, 0)
    return runs


def mean_time(times: dict[str, Times], name: str, interval: int) -> Times:
    """Of an iteration, where every ``interval``-th is a measured one."""
    dearer = times.get(f"{name}, measured", times[name])
    return Times(*((interval - 1) / interval * plain + more / interval
                   for plain, more in zip(times[name], dearer, strict=True)))  # fmt: skip


def ratios(found: list[dict[str, Times]], name: str, interval: int) -> list[Times]:
    """Per repeat, of an iteration to the passes and the ordinary step."""
    of_each = []
    for times in found:
        both = zip(mean_time(times, name, interval), times["bare passes"], times["ordinary step"], strict=True)
        of_each.append(Times(*(own / (passes + step) for own, passes, step in both)))
    return of_each


def median(values: Iterable[Times]) -> Times:
    return Times(*map(statistics.median, zip(*values, strict=True)))


# --- tables


def cost_table(training: Training, names: Sequence[str], steps: int, repeats: int) -> tuple[Table, list[Times]]:
    """What is printed, and the median ratios of the attacks."""
    hooks = {name: AdversarialTrainingHook(adversary(name, steps)) for name in names}
    runs = {"bare passes": lambda: training.bare(steps), "ordinary step": training.ordinary}
    for name, hook in hooks.items():
        runs |= iterations(training, name, hook)
    found = rounds(runs, repeats)
    table = _table(f"{steps} attack passes and a training step", "ms", "wall", "process", "lowest .. highest")
    for name in ("bare passes", "ordinary step"):
        table.add_row(name, f"{1e3 * median(times[name] for times in found).process:.0f}", "", "", "")
    medians = []
    for name, hook in hooks.items():
        of_each = ratios(found, name, hook.form.error_interval)
        medians.append(median(of_each))
        own = median(mean_time(times, name, hook.form.error_interval) for times in found)
        spread = sorted(one.process for one in of_each)
        ends = f"{spread[0]:.3f} .. {spread[-1]:.3f}"
        table.add_row(name, f"{1e3 * own.process:.0f}", f"{medians[-1].wall:.3f}", f"{medians[-1].process:.3f}", ends)
    return table, medians


def forms_table(training: Training, name: str, steps: int, repeats: int) -> Table:
    hooks, runs = forms(adversary(name, steps)), {"ordinary training": training.ordinary}
    for form, hook in hooks.items():
        runs |= iterations(training, form, hook)
    found = rounds(runs, repeats)
    table = _table(f"forms of training with {name}, {steps} steps", "ms", "wall / plain", "process / plain")
    intervals = {form: hook.form.error_interval for form, hook in hooks.items() if hasattr(hook, "form")}
    for form in ("ordinary training", *hooks):
        own = [mean_time(times, form, intervals.get(form, 1)) for times in found]
        plain = [mean_time(times, "plain", intervals["plain"]) for times in found]
        pairs = (Times(a.wall / b.wall, a.process / b.process) for a, b in zip(own, plain, strict=True))
        share = median(pairs)
        table.add_row(form, f"{1e3 * median(own).process:.0f}", f"{share.wall:.2f}", f"{share.process:.2f}")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--steps", type=int, default=3, metavar="K")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of the images; default: the config's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--forms", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)  # one: the time of the process is then that of its work
    training = Training(load_config(options.config), torch.device(options.device), options.size)
    console = Console(width=110)
    told = f"torch {torch.__version__}, {options.device}, {options.threads} threads, {options.repeats} repeats"
    if options.forms:
        console.print(forms_table(training, options.attacks[0], options.steps, options.repeats))
        console.print(told)
        return 0
    table, medians = cost_table(training, options.attacks, options.steps, options.repeats)
    console.print(table)
    console.print(told)
    judged = [one.wall if options.device.startswith("cuda") else one.process for one in medians]
    above = [name for name, ratio in zip(options.attacks, judged, strict=True) if ratio > BOUND]
    console.print(f"above {BOUND}: {', '.join(above)}" if above else f"none is above {BOUND}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
