"""Attacked images measured again with the model that a leaderboard's entry names, as an evaluation measures them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segrobust.commands.evaluate import model_and_data
from segrobust.commands.inputs import Inputs
from segrobust.commands.network import Network
from segrobust.core.errors import UserError, as_user_error, first_line
from segrobust.core.threats import THREATS, allowed
from segrobust.core.units import format_eps
from segrobust.leaderboard.evidence import Evidence
from segrobust.leaderboard.submissions import Measured
from segrobust.models.digests import model_identity
from segrobust.runs.folder import RunFolder
from segrobust.runs.images import Ordered, entries_of
from segrobust.studies.bench import Bench

ROUNDING = 1e-6  # of pixel values outside [0, 1]


@dataclass(frozen=True)
class Given:
    """An attacked image that was sent: where it stands, of which clean image it is, and how to read its pixels."""

    where: str
    sha256: str
    read: Callable[[], Tensor]


def bench_of(base: Evidence, inputs: Inputs, network: Network) -> Bench:
    """The entry's model on the entry's images, in their order.

    Raises:
        UserError: other weights, another config or other images than the entry's, or data that no config names.
    """
    folder = RunFolder(base.run.path)
    images = folder.images()
    indices = [one.get("index") for one in images.entries]
    if None in indices:
        raise UserError(f"{base.name} was measured on data that no config names; they cannot be read again")
    model, source = model_and_data(inputs, network, len(indices), indices)
    known, here = base.identity, model_identity(model) | {"data_recipe": source.recipe}
    for name in ("weights_sha256", "config_sha256", "data_recipe"):
        if known.get(name, here.get(name)) != here.get(name):
            raise UserError(f"--model {inputs.config}: {name} is {str(here.get(name))[:12]}, the entry's is "
                            f"{str(known[name])[:12]}; name the entry's model, checkpoint and data")  # fmt: skip
    _, order = images.grown(entries_of(source), folder.path)
    metric = {"metric_size": known["metric_size"]} if "metric_size" in known else {}
    return Bench(model, Ordered(source, order), seed=known.get("seed", 0), **metric)


def counts_of(bench: Bench, place: int, pixels: Tensor | None = None) -> tuple[dict[str, list[int]], Tensor]:
    """The counts of a row for one image, or for what an attack made of it, and the clean image ``[3, H, W]``."""
    sample = bench.source[place]
    group = bench.group([place], [sample])
    shown = group.images if pixels is None else pixels[None].to(bench.device)
    with bench.repeating():
        prediction = bench.measured(shown, group)
    return bench.task.counts(prediction, group.measured_labels)[0], sample.image


def measure(bench: Bench, base: Evidence, given: Sequence[Given], norm: str, radii: Sequence[float]) -> list[Measured]:
    """Every image with its counts and the smallest of the radii that it keeps to.

    Raises:
        UserError: an image of another size, not in [0, 1], of no image of the entry, or farther than every radius.
    """
    return [_measured(bench, base.places[one.sha256], one, norm, radii) for one in given]


def _measured(bench: Bench, place: int, one: Given, norm: str, radii: Sequence[float]) -> Measured:
    clean = bench.source[place].image
    pixels = _checked(one, one.read(), tuple(clean.shape))
    distance = float(THREATS[norm].distance((pixels - clean)[None]))
    eps = next((eps for eps in sorted(radii) if distance <= allowed(norm, eps)), None)
    if eps is None:
        raise UserError(f"{one.where}: {norm} {format_eps(distance, norm)} from {bench.source[place].name!r}, farther "
                        f"than {format_eps(max(radii), norm)}; is it made of that image?")  # fmt: skip
    counts, _ = counts_of(bench, place, pixels)
    return Measured(one.sha256, eps, distance, counts, pixels.numpy())


def _checked(one: Given, pixels: Tensor, shape: tuple[int, ...]) -> Tensor:
    if not pixels.is_floating_point() or tuple(pixels.shape) != shape:
        raise UserError(f"{one.where}: expected float {list(shape)}, got {pixels.dtype} {list(pixels.shape)}")
    pixels = pixels.float()
    if not torch.isfinite(pixels).all() or pixels.amin() < -ROUNDING or pixels.amax() > 1 + ROUNDING:
        raise UserError(f"{one.where}: expected values in [0, 1], got {pixels.amin():g} to {pixels.amax():g}")
    return pixels.clamp(0, 1)


def images_in(path: Path, base: Evidence) -> list[Given]:
    """The attacked images of a folder as ``--save-adversarial`` leaves it (``<attack>_<eps>/<place>.npy``), or of one
    tensor ``[N, 3, H, W]`` in a ``.npy`` or ``.safetensors`` file.

    A place is that in ``images.json`` beside or above the files or, without one, in the entry's list of images.

    Raises:
        UserError: no image, or one of none of the entry's.
    """
    if path.is_file():
        stack = read_tensor(path)
        if stack.ndim != 4:
            raise UserError(f"{path}: expected a tensor [N, 3, H, W], got {list(stack.shape)}")
        numbered = [(n, f"{path.name}[{n}]", lambda n=n: stack[n]) for n in range(len(stack))]
        order = [sha256 for _, sha256 in base.run.images]
    else:
        files = sorted(path.rglob("*.npy"))
        wrong = [file for file in files if not file.stem.isdecimal()]
        if wrong or not files:
            what = f"the file {wrong[0].name!r}" if wrong else "none"
            raise UserError(f"{path}: expected images as <place>.npy, such as 000000.npy, got {what}")
        numbered = [
            (int(file.stem), str(file.relative_to(path)), lambda file=file: read_tensor(file)) for file in files
        ]
        order = _order_at(path, base)
    given = [Given(where, order[n] if n < len(order) else "", read) for n, where, read in numbered]
    if strange := [one.where for one in given if one.sha256 not in base.places]:
        raise UserError(f"{path}: {strange[0]} is of no image of the entry, which has {len(base.run.images)}")
    return given


def _order_at(path: Path, base: Evidence) -> list[str]:
    """Digests of the clean images by place: of the run that the folder lies in, or of the entry."""
    for folder in (path, *path.resolve().parents[:2]):
        if (folder / "images.json").is_file():
            return [str(one["sha256"]) for one in RunFolder(folder).images().entries]
    return [sha256 for _, sha256 in base.run.images]


def read_tensor(file: Path) -> Tensor:
    """One tensor; nothing in the file can run code. UserError: none, or several."""
    kinds = (OSError, ValueError, EOFError, TypeError, SafetensorError)
    with as_user_error(lambda error: f"{file}: not a tensor that can be read ({first_line(error)})", kinds):
        if file.suffix == ".npy":
            return torch.from_numpy(np.load(file, allow_pickle=False))
        tensors = load_file(file) if file.suffix == ".safetensors" else {}
    if len(tensors) != 1:
        raise UserError(f"{file}: expected .npy, or .safetensors with one tensor, got {len(tensors)}")
    return next(iter(tensors.values()))


def differing(stored: Mapping[str, list[int]], here: Mapping[str, list[int]]) -> float:
    """The share of the labelled pixels that two counts of one image cannot both have."""

    def dense(counts: Mapping[str, list[int]]) -> dict[tuple[str, int], int]:
        return {
            (name, c): n for name in ("tp", "fp", "fn") for c, n in zip(counts["classes"], counts[name], strict=True)
        }

    one, other = dense(stored), dense(here)
    pixels = sum(n for (name, _), n in other.items() if name != "fp")
    return sum(abs(one.get(key, 0) - other.get(key, 0)) for key in {**one, **other}) / 2 / max(pixels, 1)


def stored_images(base: Evidence) -> Iterator[tuple[Any, Path]]:
    """Rows of a kept run with the files of their images, where these are kept."""
    for row in base.rows:
        if not row.condition.candidate:
            file = base.run.path / "adversarial" / row.condition.folder / f"{row.image:06d}.npy"
            if file.is_file():
                yield row, file
