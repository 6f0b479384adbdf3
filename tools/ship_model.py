#!/usr/bin/env python
"""Put a trained model into segrobust/zoo: half-precision safetensors and a JSON config without the training part.

python tools/ship_model.py CONFIG CHECKPOINT NAME "what it is, in one sentence" [--average-with CHECKPOINT]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import save_file

from segrobust.models.checkpoint.loading import convert_checkpoint, load_state_dict
from segrobust.models.mm import load_config
from segrobust.models.shipped import FOLDER

KEPT = ("default_scope", "model", "val_dataloader", "test_dataloader", "test_evaluator", "test_cfg", "attack_defaults")
LARGEST = 5_000_000


def average(one: Path, other: Path, target: Path) -> Path:
    """Mean of the weights of two stages of one training (Wortsman et al., 2022, arXiv 2203.05482)."""
    first, second = load_state_dict(one), load_state_dict(other)
    mean = {
        name: (value.float() + second[name].float()) / 2 if value.is_floating_point() else value
        for name, value in first.items()
    }
    save_file({name: value.contiguous() for name, value in mean.items()}, target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name")
    parser.add_argument("description")
    parser.add_argument("--average-with", type=Path, help="ship the mean of both checkpoints' weights")
    options = parser.parse_args()
    config = load_config(options.config).to_dict()
    about = {"description": options.description, "trained_with": Path(options.config).name}
    shipped = {**about, **{key: config[key] for key in KEPT if key in config}}
    weights = FOLDER / f"{options.name}.safetensors"
    checkpoint = options.checkpoint
    if options.average_with:
        checkpoint = average(checkpoint, options.average_with, FOLDER / f".{options.name}.safetensors")
    convert_checkpoint(checkpoint, weights, half=True)
    if options.average_with:
        checkpoint.unlink()
    if weights.stat().st_size > LARGEST:
        weights.unlink()
        raise SystemExit(f"{options.name}: over {LARGEST / 1e6:g} MB even in half precision; not shipped")
    (FOLDER / f"{options.name}.json").write_text(json.dumps(shipped, indent=1) + "\n", encoding="utf-8")
    print(f"{weights.name}: {weights.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
