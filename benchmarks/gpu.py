"""What attacks and adversarial training cost on a GPU, over bare passes of the same model, in under three minutes.

    python benchmarks/gpu.py [--seconds 90] [--models camvid deeplabv3] [--json FILE] [--device cpu --tiny]

A bare pass is one forward and the backward of a constant logit gradient to the images. A step is what one more step of
an attack takes: two calls of the attack, with few and with more steps, and their difference over the difference of
their backward passes; what an attack does once does not count. ``eager`` starts kernel by kernel, ``replayed`` as CUDA
graphs (``segrobust evaluate`` does, unless told not to), each over its own bare pass. All passes are in true float32
and repeat bit for bit, but for those called ``not deterministic``. An iteration of training is the hook's attack and
the optimiser's step, over (K + 1) eager bare passes and one ordinary step. Times are medians over rounds in which bare
pass, few and more steps follow each other; ``--seconds`` is spread over all measurements, which make at least
two rounds each. Ratios are of one run on one machine; another card has others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from segrobust import Segmenter, build_attack, load_segmenter
from segrobust.attacks import fused
from segrobust.attacks.base import Attack
from segrobust.hooks import AdversarialTrainingHook
from segrobust.models.deterministic import deterministic
from segrobust.models.mm import import_mmseg, load_config
from segrobust.models.network_io import in_channels_last
from segrobust.models.precision import computing_in
from segrobust.models.replayed import Replayed
from segrobust.models.segmenter import frozen_eval
from segrobust.models.shipped import shipped_model

CAMVID = "camvid-fpn-r18w24-pgdat-linf4-180x240"
ATTACKS = ("TsallisPGD", "SharpPGD", "FMN", "ALMAProx", "ALMAProx:published")
ONE_STAGE = {"TsallisPGD": {"radius_reduction": False}, "SharpPGD": {"radius_reduction": False}}
TRAINING_STEPS = 3  # K
MEASUREMENTS = {"camvid": 2 * len(ATTACKS) + 4, "deeplabv3": 2 * len(ATTACKS) + 2}  # that share the seconds
MEBI = 2**20


@dataclass(frozen=True)
class Scale:
    """How much is measured: steps of the two calls, bare passes and rounds; ``tiny`` sizes show that it works."""

    few: int = 3
    more: int = 9
    bare: int = 3
    rounds: int = 2  # of the larger model a round takes seconds
    tiny: bool = False


TINY = Scale(few=2, more=4, bare=1, rounds=1, tiny=True)


@dataclass(frozen=True)
class Case:
    """A model and a batch of noise with random labels, some of them void."""

    title: str
    model: Segmenter
    images: Tensor
    labels: Tensor


def camvid(device: torch.device, tiny: bool) -> Case:
    size = (2, 32, 48) if tiny else (8, 180, 240)
    return _case("CamVid FPN-R18w24", load_segmenter(CAMVID, device=device), size, device)


def deeplabv3(device: torch.device, tiny: bool) -> Case:
    from torchvision.models.segmentation import deeplabv3_resnet50

    torch.manual_seed(0)
    net = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21)
    model = Segmenter.wrap(net, num_classes=21, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).eval()
    size = (1, 33, 33) if tiny else (8, 512, 512)
    return _case("torchvision DeepLabV3-R50", in_channels_last(model.to(device)), size, device)


MODELS = {"camvid": camvid, "deeplabv3": deeplabv3}


def _case(name: str, model: Segmenter, size: tuple[int, int, int], device: torch.device) -> Case:
    generator, (count, height, width) = torch.Generator().manual_seed(0), size
    images = torch.rand(count, 3, height, width, generator=generator).to(device)
    labels = torch.randint(0, model.num_classes, size, generator=generator)
    labels = labels.masked_fill(torch.rand(size, generator=generator) < 0.05, 255).to(device)
    return Case(f"{name}, {height}x{width}, batch {count}", model, images, labels)


# --- time


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """From an idle device to an idle device."""
    if device.type != "cuda":
        begun = time.perf_counter()
        run()
        return time.perf_counter() - begun
    torch.cuda.synchronize(device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


@dataclass(frozen=True)
class Clock:
    """Rounds of a measurement until its share of the seconds is used, after one that does not count."""

    device: torch.device
    share: float
    scale: Scale

    def rounds(self, *runs: Callable[[], Any]) -> list[tuple[float, ...]]:
        """The seconds of every run, round by round."""
        for run in runs:
            run()
        begun, found = time.perf_counter(), []
        while len(found) < self.scale.rounds or time.perf_counter() - begun < self.share:
            found.append(tuple(seconds(run, self.device) for run in runs))
        return found


def bare_passes(model: nn.Module, images: Tensor, count: int) -> None:
    for _ in range(count):
        points = images.detach().requires_grad_()
        logits = model(points)
        torch.autograd.grad(logits, points, torch.ones_like(logits))


@contextlib.contextmanager
def contexts(device: torch.device, repeating: bool = True) -> Iterator[None]:
    """As in a run; what goes over all logits is compiled, as it is in calls of many steps."""
    compiled = mock.patch.object(fused, "WORTH_COMPILING", 0)
    with computing_in("float32", device), deterministic(device, repeating), compiled:
        yield


def step_cost(case: Case, model: nn.Module, name: str, clock: Clock, repeating: bool = True) -> dict[str, float]:
    """Milliseconds of a bare pass and of a step, and their ratio: medians over the rounds."""
    few, more = (_attack(name, steps) for steps in (clock.scale.few, clock.scale.more))
    passes = more.passes()[1] - few.passes()[1]

    def bare() -> None:
        with frozen_eval(model):
            bare_passes(model, case.images, clock.scale.bare)

    runs = [bare, *((lambda one=one: one(model, case.images, case.labels)) for one in (few, more))]
    with contexts(clock.device, repeating):
        found = [(first / clock.scale.bare, (last - middle) / passes) for first, middle, last in clock.rounds(*runs)]
    bare_time, step_time = (1e3 * statistics.median(times) for times in zip(*found, strict=True))
    ratio = statistics.median(step / first for first, step in found)
    return {"bare_ms": bare_time, "step_ms": step_time, "ratio": ratio, "rounds": len(found)}


def _attack(name: str, steps: int) -> Attack:
    bounded = {"eps": "4/255"} if name in ONE_STAGE else {}
    return build_attack(name, steps=steps, **bounded, **ONE_STAGE.get(name, {}))


# --- memory


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int | None:
    """The most that torch's tensors take during ``run``, over what was there before; None on a CPU (memory.py)."""
    if device.type != "cuda":
        run()
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def peaks(case: Case, clock: Clock) -> dict[str, int | None]:
    """Of an eager bare pass and of the attacks, with few steps."""
    with contexts(clock.device):
        with frozen_eval(case.model):
            found = {"bare": peak_bytes(lambda: bare_passes(case.model, case.images, 1), clock.device)}
        for name in ATTACKS:
            attack = _attack(name, clock.scale.few)
            found[name] = peak_bytes(lambda attack=attack: attack(case.model, case.images, case.labels), clock.device)
    return found


# --- training


class Training:
    """The shipped CamVid model's training on one batch: what mmengine's loop calls in an iteration."""

    def __init__(self, case: Case, device: torch.device, graphs: bool) -> None:
        import_mmseg()
        from mmengine.optim import build_optim_wrapper
        from mmseg.registry import MODELS as BUILT

        optimiser = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-6))
        torch.manual_seed(0)
        network = BUILT.build(load_config(shipped_model(CAMVID).config_path).model)
        network = in_channels_last(network.to(device)).train()
        hub = SimpleNamespace(update_scalar=lambda name, value: None, update_info=lambda name, value: None)
        self.runner = SimpleNamespace(model=network, iter=0, rank=0, world_size=1, seed=0, message_hub=hub)
        self.runner.optim_wrapper = build_optim_wrapper(network, optimiser)
        plain = dict(steps=TRAINING_STEPS, optimiser="pgd", radius_reduction=False)
        self.hook = AdversarialTrainingHook(dict(type="TsallisPGD", eps="4/255", **plain), cuda_graphs=graphs)
        self.hook.before_train(self.runner)
        self.images = [(255 * image.flip(0)).round().byte().cpu() for image in case.images]
        self.samples = [_sample(label.cpu()) for label in case.labels]

    def step(self, inputs: list[Tensor]) -> None:
        batch = {"inputs": inputs, "data_samples": self.samples}
        self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)

    def ordinary(self) -> None:
        self.step(self.images)

    def iteration(self) -> None:
        batch = {"inputs": self.images, "data_samples": self.samples}
        self.hook.before_train_iter(self.runner, 0, batch)
        self.step(batch["inputs"])
        self.runner.iter += 1

    def bare(self, count: int) -> None:
        model = self.hook.segmenter
        images = torch.stack(self.images).to(next(model.parameters()).device).float() / 255
        with frozen_eval(model):
            bare_passes(model, images, count)


def _sample(label: Tensor) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    size = tuple(label.shape)
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
    sample.gt_sem_seg = PixelData(data=label[None])
    return sample


def training_cost(case: Case, graphs: bool, clock: Clock) -> dict[str, float]:
    """Milliseconds of an iteration with the hook, of an ordinary step and of a bare pass, and the iteration over
    K + 1 bare passes and a step."""
    training, count = Training(case, clock.device, graphs), TRAINING_STEPS + 1
    with contexts(clock.device):
        for _ in range(count):  # a graph is captured in the second iteration, when a step's memory is known
            training.iteration()
        runs = (training.iteration, training.ordinary, lambda: training.bare(count))
        found = clock.rounds(*runs)
    iteration, ordinary, bare = (1e3 * statistics.median(times) for times in zip(*found, strict=True))
    ratio = statistics.median(whole / (step + passes) for whole, step, passes in found)
    return {"iteration_ms": iteration, "ordinary_ms": ordinary, "bare_ms": bare / count, "ratio": ratio}


# --- everything


def measure(name: str, device: torch.device, share: float, scale: Scale) -> dict[str, Any]:
    """All numbers of one model."""
    case, clock = MODELS[name](device, scale.tiny), Clock(device, share, scale)
    found: dict[str, Any] = {"title": case.title, "batch": len(case.images), "peak_bytes": peaks(case, clock)}
    replayed = Replayed(case.model)
    found["eager"] = {attack: step_cost(case, case.model, attack, clock) for attack in ATTACKS}
    found["replayed"] = {attack: step_cost(case, replayed, attack, clock) for attack in ATTACKS}
    loose = {"eager": case.model, "replayed": Replayed(case.model)}
    found["not_deterministic"] = {
        form: step_cost(case, model, ATTACKS[0], clock, repeating=False) for form, model in loose.items()
    }
    if name == "camvid":
        found["training"] = {form: training_cost(case, form == "replayed", clock) for form in ("eager", "replayed")}
    return found


def table_of(found: dict[str, Any]) -> Table:
    table = Table(title=found["title"])
    titles = ("step", "eager ms", "/ bare", "replayed ms", "/ bare", "images/s", "peak MiB", "/ bare")
    for column in titles:
        table.add_column(column, justify="left" if column == "step" else "right")
    bare = [statistics.median(one["bare_ms"] for one in found[form].values()) for form in ("eager", "replayed")]
    rows = {"bare pass": ("bare", (bare[0], 1.0), (bare[1], 1.0))}
    for name in ATTACKS:
        both = ((found[form][name]["step_ms"], found[form][name]["ratio"]) for form in ("eager", "replayed"))
        rows[name] = (name, *both)
    peaks = found["peak_bytes"]
    for title, (key, eager, replayed) in rows.items():
        known = peaks[key] is not None
        memory = (f"{peaks[key] / MEBI:.0f}", f"{peaks[key] / peaks['bare']:.3f}") if known else ("", "")
        times = [text for ms, ratio in (eager, replayed) for text in (f"{ms:.2f}", f"{ratio:.3f}")]
        table.add_row(title, *times, f"{1e3 * found['batch'] / replayed[0]:.0f}", *memory)
    return table


def lines_of(found: dict[str, Any]) -> Iterator[str]:
    """What the table has no column for."""
    bare = [found[form][ATTACKS[0]]["bare_ms"] for form in ("eager", "replayed")]
    yield f"bare pass, eager / replayed: {bare[0] / bare[1]:.2f}"
    for form in ("eager", "replayed"):
        own, loose = found[form][ATTACKS[0]], found["not_deterministic"][form]
        yield (
            f"deterministic / not, {form}: bare pass {own['bare_ms'] / loose['bare_ms']:.3f} "
            f"(not: {loose['bare_ms']:.2f} ms), step of {ATTACKS[0]} {own['step_ms'] / loose['step_ms']:.3f}"
        )
    for form, one in found.get("training", {}).items():
        yield (
            f"training, TsallisPGD with {TRAINING_STEPS} steps, {form}: {one['iteration_ms']:.1f} ms an iteration, "
            f"{one['ratio']:.3f} of {TRAINING_STEPS + 1} bare passes of {one['bare_ms']:.2f} ms and a step of "
            f"{one['ordinary_ms']:.1f} ms"
        )


def device_of(text: str) -> torch.device:
    device = torch.device(text)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; --device cpu --tiny only shows that the benchmark works")
    return device


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90, metavar="N", help="for the rounds of all measurements")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small images and one round, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers, unrounded")
    options = parser.parse_args(arguments)
    device, begun = device_of(options.device), time.perf_counter()
    share = 0.0 if options.tiny else options.seconds / sum(MEASUREMENTS[name] for name in options.models)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    console, result = Console(width=110), {"device": card, "torch": torch.__version__, "models": {}}
    for name in options.models:
        found = result["models"][name] = measure(name, device, share, TINY if options.tiny else Scale())
        console.print(table_of(found))
        for line in lines_of(found):
            console.print(line, soft_wrap=True, highlight=False)
    result["seconds"] = time.perf_counter() - begun
    console.print(f"{card}, torch {torch.__version__}, {result['seconds']:.0f} s; ratios of one run on one machine")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
