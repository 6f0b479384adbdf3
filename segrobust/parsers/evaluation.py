"""``segrobust evaluate`` and ``benchmark``: their options are lists of settings, read from dataclasses."""

from __future__ import annotations

from segrobust.commands import run
from segrobust.commands.benchmark_cells import Benchmarking
from segrobust.commands.inputs import Inputs
from segrobust.commands.network import Network
from segrobust.parsers.common import command
from segrobust.runs.settings import Settings

_BENCHMARK_FILE = """the file, such as configs/benchmarks/camvid.py (models and options are those of
`segrobust evaluate`; files are looked for beside this one, then in the current folder):
  name = "mine"
  models = [
      dict(name="standard", model="camvid-fpn-r18w24-std-180x240"),
      dict(name="ours", model="x.py", checkpoint="x.pth", recipe="X-AT", options=dict(data_root="/data/camvid")),
  ]
  studies = [
      dict(name="attacked", attacks=["Standard"], eps=["1/255", "4/255"], num_images=32),
      dict(name="corrupted", corruptions=["all"], severity=[1, 3, 5]),
  ]"""


def evaluate(commands) -> None:
    parser = command(
        commands,
        "evaluate",
        "attack a checkpoint and measure what is left of its accuracy",
        run.evaluate,
        "segrobust evaluate NAME                             a name from `segrobust models`, with its weights",
        "segrobust evaluate configs/NAME.py weights.pth --attack tsallis-pgd segpgd cospgd --eps 1/255 4/255",
        "segrobust evaluate configs/NAME.py weights.pth --attack cepgd:published --num-images 16",
        "segrobust evaluate my_net.py:build weights.pth --data FOLDER --num-classes 11 --mean 0.4 0.4 0.4",
        "segrobust evaluate my_net.py:build weights.pth --data FOLDER --num-classes 11 --channel-order bgr "
        "--input-range 255",
        "segrobust evaluate mmseg::pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512 weights.pth "
        "--protocol voc473-void-as-background-21 --data-root DIR",
        "segrobust evaluate NAME --attack cospgd --eps 4/255 --target class:road",
        "segrobust evaluate NAME --attack cospgd --eps 4/255 --surrogate OTHER    images attacked on another model",
        'segrobust evaluate NAME --attack "tsallis-pgd(q_start=-3)" ddn --norm L2 --eps 0.5    any field of an attack',
        "segrobust evaluate NAME --attack my-attack --import my_attack.py         one of your own",
        "segrobust evaluate NAME --corruptions all --severity 1 3 5               fog, noise, blur, ...",
        "segrobust evaluate NAME --universal perturbation patch                   one for all images",
        "torchrun --nproc_per_node 2 tools/evaluate.py configs/NAME.py weights.pth",
    )
    parser.add_options(Inputs, "models, data and your own code")
    parser.add_options(Network, "a network of your own (FILE.py:FUNCTION)")
    parser.add_options(Settings, "evaluation")


def benchmark(commands) -> None:
    parser = command(
        commands,
        "benchmark",
        "evaluate models under studies that a file lists, and compare them in one table",
        run.benchmark,
        "segrobust benchmark configs/benchmarks/smoke.py                does it work here? two minutes, no data needed",
        "segrobust benchmark configs/benchmarks/camvid.py --dry-run     what it will take",
        "segrobust benchmark configs/benchmarks/camvid.py               started again it goes on",
        "segrobust benchmark my.py --only ours other/corruptions '*/min-norm'",
        "segrobust benchmark my.py --num-images 4                       a smaller trial, in a folder of its own",
        "torchrun --nproc_per_node 2 tools/benchmark.py my.py",
    )
    parser.epilog += f"\n\n{_BENCHMARK_FILE}"
    parser.add_options(Benchmarking, "benchmark")
