"""Peak memory of an attack over that of one bare forward + input-gradient backward of the same model.

    python benchmarks/memory.py [--size 1024x2048] [--models fpn segformer] [--modes whole slide]
                                [--attacks tsallis-pgd alma-prox] [--threads 1]

Models have 19 classes and random weights; at 1024x2048 an attack may need 1.5 GB more than the bare pass. Attacks
run whole, with four steps (each phase of ALMA-prox), on one image, so the table covers all that they keep between
steps. Every row is measured with and without activation checkpointing; the bare pass they are compared to has none.
On a GPU, memory is torch's own peak; on a CPU the largest sum of live tensor storage that a profiler sees, without
the scratch memory inside of operators.
"""

from __future__ import annotations

import argparse
import gc
import time

import torch
from attack_step import bare_pass, peak_bytes
from rich.console import Console
from rich.table import Table

from segrobust import Segmenter, build_attack, load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.segmenter import frozen_eval

ALLOWED = 1.5e9 / (1024 * 2048)  # bytes per pixel: all that an attack keeps grows with the image
CLASSES = 19
CONFIGS = {
    "fpn": "configs/fpn/fpn_r18w24_1xb8-std-3k_camvid-180x240.py",
    "segformer": "mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py",
    "pspnet": "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
}


def build(name: str, mode: str, size: tuple[int, int], device: str) -> Segmenter:
    """A model of 19 classes; sliding windows are squares of the image's height that overlap by a quarter."""
    config = load_config(CONFIGS[name])
    crop = min(size)
    slide = dict(mode="slide", crop_size=(crop, crop), stride=(3 * crop // 4, 3 * crop // 4))
    config.merge_from_dict({"model.decode_head.num_classes": CLASSES})
    config.model.test_cfg = slide if mode == "slide" else dict(mode="whole")
    config.model.decode_head.loss_decode.pop("class_weight", None)
    return load_segmenter(config, device=device)


def measure(name: str, mode: str, options: argparse.Namespace) -> tuple[Table, bool]:
    """One model and mode; whether every attack keeps to what is allowed."""
    torch.manual_seed(0)
    height, width = options.size
    model = build(name, mode, options.size, options.device)
    images = torch.rand(1, 3, height, width, device=options.device)
    labels = torch.randint(0, CLASSES, (1, height, width), device=options.device)
    attacks = [build_attack(attack, steps=4) for attack in options.attacks]
    runs = {"bare pass": lambda: bare_pass(model, images)}
    runs |= {attack.name: lambda attack=attack: attack(model, images, labels) for attack in attacks}
    table = Table(title=f"{name}, {mode}, {height}x{width}, {CLASSES} classes, MB = 10^6 bytes")
    for column in ("", "checkpointing", "peak MB", "over bare MB", "allowed MB", "seconds"):
        table.add_column(column, justify="left" if column in ("", "checkpointing") else "right")
    runs["bare pass"]()  # so that the first row does not pay for what happens once
    bare, kept, allowed = None, True, ALLOWED * height * width
    for model.checkpointing in (False, True):
        for title, run in runs.items():
            peak, seconds = peak_and_time(model, run)
            bare = peak if bare is None else bare
            kept &= peak - bare <= allowed
            saving = "on" if model.checkpointing else "off"
            over = f"{(peak - bare) / 1e6:+.0f}"
            table.add_row(title, saving, f"{peak / 1e6:.0f}", over, f"{allowed / 1e6:.0f}", f"{seconds:.1f}")
    return table, kept


def peak_and_time(model: Segmenter, run) -> tuple[int, float]:
    gc.collect()
    begin = time.perf_counter()
    with frozen_eval(model):
        peak = peak_bytes(run)
    return peak, time.perf_counter() - begin


def pair(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=pair, default=(1024, 2048), metavar="HxW")
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=["fpn"])
    parser.add_argument("--modes", nargs="+", choices=("whole", "slide"), default=["whole", "slide"])
    parser.add_argument("--attacks", nargs="+", default=["tsallis-pgd", "alma-prox"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=110)
    kept = True
    for name in options.models:
        for mode in options.modes:
            table, within = measure(name, mode, options)
            console.print(table)
            kept &= within
    console.print(f"torch {torch.__version__}, {options.device}, {options.threads} threads")
    if not kept:
        raise SystemExit("an attack needs more memory than is allowed")


if __name__ == "__main__":
    main()
