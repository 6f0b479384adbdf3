"""Which of mmseg's own configs load and are attacked here: ``python tools/mmseg_models.py [--only WORD] [--csv FILE]``.

One config per family and data set, its smallest, with random weights, no checkpoint and no network. Each is attacked
for one step on one image of 64 x 64 pixels, or of the size that it says it needs. One line per config and a summary.
"""

from __future__ import annotations

import argparse
import csv
import gc
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from segrobust import build_attack, load_segmenter
from segrobust.core.errors import UserError, first_line
from segrobust.models.load import load_config
from segrobust.models.mm import configs_of_mmseg

SIZE = 64
SIZES = {"tiny": 0, "t": 0, "small": 1, "s": 1, "base": 2, "b": 2, "large": 3, "l": 3, "xlarge": 4}
DATA = re.compile(
    r"cityscapes|ade20k|voc12(?:aug)?|pascal[-_]context(?:-59)?|coco-stuff\w+|loveda|potsdam|vaihingen|isaid"
    r"|chase-db1|drive|hrf|stare|levir|mapillary|mapillay|\bvoc\b"
)
REFUSED = {  # what an error says and what it means
    "this model needs": "needs a package",
    "only models": "other answers",  # depth, or of more than one image
}
NEEDED_SIZE = re.compile(r"refuses this size but takes (?:that of its training, )?(\d+)x(\d+)")


@dataclass
class Outcome:
    """One line of the table; ``result``: attacked, attacked at its size, needs a package, other answers, or failed."""

    config: str
    result: str
    detail: str
    seconds: float


def one_per_family_and_data(names: list[str]) -> list[str]:
    """The smallest config of each family (folder) and data set, by its name."""
    chosen: dict[tuple[str, str], str] = {}
    for name in sorted(names, key=_size_in_name):
        family, file = name.split("/", 1)
        found = DATA.search(file)
        chosen.setdefault((family, found[0] if found else file), name)
    return sorted(chosen.values())


def _size_in_name(name: str) -> tuple:
    file = name.rsplit("/", 1)[-1].removesuffix(".py")
    words = [word.rstrip("0123456789") for word in re.split("[-_]", file)]
    rank = next((SIZES[word] for word in words if word in SIZES), SIZES["base"])
    return rank, [int(number) for number in re.findall(r"\d+", file)], name


def tried(name: str) -> Outcome:
    """Load and attack one of them."""
    start = time.perf_counter()
    try:
        model = load_segmenter(load_config(f"mmseg::{name}"), device="cpu")
        result, detail = attacked(model)
    except UserError as error:
        result, detail = next((kind for words, kind in REFUSED.items() if words in str(error)), "failed"), str(error)
    except Exception as error:  # the table goes on
        result, detail = "failed", f"{type(error).__name__}: {first_line(error)}"
    return Outcome(name, result, detail, time.perf_counter() - start)


def attacked(model: Any) -> tuple[str, str]:
    """One step of PGD, at the size that the model asks for where it refuses a small one."""
    result, size, detail = "attacked", (SIZE, SIZE), model.name
    try:
        change = one_step(model, size)
    except UserError as error:
        found = NEEDED_SIZE.search(str(error))
        if found is None:
            raise
        result, size, detail = "attacked at its size", (int(found[1]), int(found[2])), first_line(error)
        change = one_step(model, size)
    return (result, detail) if change > 0 else ("failed", "the attack did not change the image")


def one_step(model: Any, size: tuple[int, int]) -> float:
    torch.manual_seed(0)
    images = torch.rand(1, 3, *size)
    labels = torch.randint(0, model.num_classes, (1, *size))
    attack = build_attack("CEPGD", eps="8/255", steps=1)
    return float((attack(model, images, labels, seeds=[0]).images - images).abs().max())


def outcomes(names: list[str]) -> Iterator[Outcome]:
    for name in names:
        outcome = tried(name)
        print(f"{outcome.result:21s} {outcome.seconds:6.1f} s  {outcome.config}  {outcome.detail}", flush=True)
        gc.collect()
        yield outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="configs whose path holds this")
    parser.add_argument("--csv", type=Path, help="write the table there too")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    found = list(outcomes([name for name in one_per_family_and_data(configs_of_mmseg()) if options.only in name]))
    if options.csv:
        with options.csv.open("w", newline="") as file:
            table = csv.DictWriter(file, ("config", "result", "detail", "seconds"))
            table.writeheader()
            table.writerows(asdict(one) for one in found)
    print(", ".join(f"{count} {result}" for result, count in Counter(one.result for one in found).items()))


if __name__ == "__main__":
    main()
