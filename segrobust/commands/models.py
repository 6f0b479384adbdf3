"""``segrobust models``: what there is to know of the shipped and the published models, read without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from segrobust.core.errors import unknown_name
from segrobust.models import shipped
from segrobust.models.published import PUBLISHED, Published, Score

NARROW = 70  # columns, below which a name may go on in the next line
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
BRING_YOUR_OWN = (
    "segrobust evaluate NAME FILE attacks a published one; weights: bring your own FILE. Scores are quoted: published, "
    "not reproduced. Data: --data-root DIR, in the official archive's layout (Cityscapes with *_labelTrainIds.png); "
    "PIR-AT's are prepared by their paper's protocol, DDC-AT's are whole images with void ignored (their tiles with "
    "averaged answers are not attacked here) unless a --protocol says otherwise. `segrobust models NAME` tells all "
    "about one."
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one model.

    source: who made it; training, network, images: in words; protocol: of the scores, which are in percent, by what
    was done to the images; file: of the weights; command: what attacks it.
    """

    name: str
    kind: str
    source: str
    training: str
    network: str
    data: str
    classes: int
    parameters: int
    images: str
    protocol: str
    scores: Mapping[str, Mapping[str, float | None]]
    scores_from: str
    licence: str
    file: str
    layout: str
    command: str


def known_models() -> dict[str, Facts]:
    """All shipped models, then the published ones, by name."""
    ours = {name: _of_shipped(entry) for name, entry in shipped.zoo().items()}
    return ours | {name: _of_published(one) for name, one in PUBLISHED.items()}


def print_models(name: str | None = None, as_json: bool = False) -> None:
    """A table of all models, or all about one; UserError: there is no such model."""
    known = known_models()
    if name is not None and name not in known:
        raise unknown_name("model", name, known)
    if as_json:
        print(json.dumps([asdict(one) for one in known.values()] if name is None else asdict(known[name]), indent=1))
    elif name is not None:
        print("\n".join(f"{key}: {text}" for key, text in _told(known[name])))
    else:
        _print_tables(known)


def _of_shipped(entry: shipped.ZooEntry) -> Facts:
    config = json.loads(entry.config_path.read_text(encoding="utf-8"))
    model, data = config["model"], config["test_dataloader"]["dataset"]
    scale = data["pipeline"][0].get("scale")
    images = f"resized to {scale[0]}x{scale[1]}" if scale else "of their own size"
    declared, robust = config.get("declared", {}), config.get("robust", {})
    scores = {"clean": Score(None, declared["mIoU"])} if declared else {}
    scores |= {eps: Score(*score) for eps, score in robust.get("scores", {}).items()}
    told = [f"clean: {declared['images']} test images"] if declared else []
    return Facts(
        name=entry.name,
        kind="shipped",
        source="segrobust",
        training=entry.description,
        network=f"{model['type']}: {model['backbone']['type']}, {model['decode_head']['type']}",
        data=data["type"].removesuffix("Dataset"),
        classes=model["decode_head"]["num_classes"],
        parameters=_parameters(entry.weights_path),
        images=images,
        protocol=f"images {images}, scores at that size; void is ignored",
        scores=_scores(scores),
        scores_from="; ".join(told + ([f"others: {robust['how']}"] if robust else [])),
        licence="Apache-2.0",
        file=f"{entry.weights_path.name} ({entry.weights_path.stat().st_size / 1e6:.1f} MB)",
        layout="safetensors, part of the package",
        command=f"segrobust evaluate {entry.name}",
    )


def _parameters(weights: Path) -> int:
    """How many numbers there are outside BatchNorm's statistics, from the header of a safetensors file."""
    with open(weights, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors = {key: one for key, one in header.items() if key != "__metadata__" and not key.endswith(STATISTICS)}
    return sum(math.prod(one["shape"]) for one in tensors.values())


def _scores(scores: Mapping[str, Score]) -> dict[str, dict[str, float | None]]:
    return {what: {"aAcc": score.aacc, "mIoU": score.miou} for what, score in scores.items()}


def _of_published(one: Published) -> Facts:
    paper = one.paper
    mean = paper.normalisation["mean"]
    return Facts(
        name=one.name,
        kind="published",
        source=f"{paper.name}: {paper.citation}; {paper.repository}",
        training=one.training,
        network=one.arch,
        data=one.data.name,
        classes=one.data.num_classes,
        parameters=one.parameters,
        images="as they are, in [0, 1]" if mean is None else "normalised with ImageNet's mean and std",
        protocol=paper.protocols[one.data.name],
        scores=_scores(one.scores),
        scores_from=paper.sources if one.scores else "",
        licence=paper.licence,
        file=one.file or "no file published",
        layout=paper.layout,
        command=f"segrobust evaluate {one.name} FILE --data-root DIR",
    )


def _told(one: Facts) -> Iterator[tuple[str, str]]:
    """What there is about a model, a score a line."""
    quoted = " (published, not reproduced)" if one.kind == "published" else ""
    for key, value in asdict(one).items():
        if key == "scores":
            for what, score in value.items():
                yield what, ", ".join(f"{kind} {number} %" for kind, number in score.items() if number is not None)
        elif value:
            text = f"{value:,}" if key == "parameters" else str(value)
            yield key.replace("_", " "), text + (quoted if key == "scores_from" else "")


def _print_tables(known: Mapping[str, Facts]) -> None:
    """A table per source, whose title and caption say what is true of all its models."""
    for source in dict.fromkeys(one.source for one in known.values()):
        _print_table(source, [one for one in known.values() if one.source == source])
    if not any(one.kind == "shipped" for one in known.values()):
        print("no models are shipped with this copy of segrobust")
    print(BRING_YOUR_OWN)


def _print_table(source: str, these: Sequence[Facts]) -> None:
    console, first = Console(), these[0]
    protocols = "; ".join(dict.fromkeys(f"{one.data}: {one.protocol}" for one in these))
    whose = " of the authors" if first.kind == "published" else ""
    table = Table(
        title=f"{source}; licence: {first.licence}",
        caption=f"protocol{whose}: {protocols}; scores: {first.scores_from}; files: {first.layout}",
    )
    table.add_column("name", no_wrap=console.width >= NARROW, overflow="fold")
    for column in ("what it is", f"{'published ' if whose else ''}mIoU %"):
        table.add_column(column, overflow="fold")
    for one in these:
        what = (one.training, f"{one.data}, {one.classes} classes", f"{one.parameters / 1e6:.1f} M weights", one.file)
        scores = ", ".join(f"{key} {score['mIoU']}" for key, score in one.scores.items())
        table.add_row(one.name, "; ".join(what), scores or "none")
    console.print(table)
