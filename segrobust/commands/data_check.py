"""``segrobust data check``: what a config's data sets or a folder hold, what is missing and how it is laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from segrobust.commands.tallies import SPLITS, tally_of
from segrobust.core.errors import RunFailed, UserError
from segrobust.datasets.folders import CLASSES_FILE, published, splits_in
from segrobust.datasets.inventory import Inventory, data_sets, take_inventory
from segrobust.datasets.layouts import LABEL_IDS, PLAIN, TRAIN_IDS, Layout, layout_of_type
from segrobust.datasets.stored_ids import class_pixels, classes_of, void_pixels, wrong_ids
from segrobust.datasets.tally import Tally
from segrobust.models.mm import import_mmseg, load_config

SHOWN = 3  # files and sizes of a kind
UNNAMED = tuple(f"class_{index}" for index in range(255))


@dataclass(frozen=True)
class Part:
    """One data set, the uses that it has, and what its files hold."""

    uses: tuple[str, ...]
    data: Inventory
    tally: Tally

    @property
    def title(self) -> str:
        return ", ".join(self.uses)

    @property
    def layout(self) -> Layout | None:
        return layout_of_type(self.data.kind)


def check_data(what: str, cfg_options: Mapping[str, Any] | None = None, num_images: int | None = None) -> None:
    """Print what a config or a folder of data holds.

    Args:
        num_images: look into so many pairs of each data set, evenly spaced (all where it is None).

    Raises:
        UserError: no config, no folder of data, or none of the data is there.
        RunFailed: something is missing or wrong, which has been printed.
    """
    import_mmseg()
    console = Console()
    parts = []
    for settings, uses in _wanted(what, cfg_options):
        data = take_inventory(settings)
        tally = tally_of(data, ", ".join(uses), images=True, limit=num_images) if data.pairs else Tally()
        parts.append(Part(uses, data, tally))
    problems = []
    for part in parts:
        found = _problems(part)
        _print_part(part, found, console)
        problems += found
    for layout in dict.fromkeys(part.layout for part in parts if part.data.missing or not part.data.pairs):
        _say(console, f"how it is laid out: {layout.text if layout else PLAIN}")
    if all(part.data.missing for part in parts):
        raise UserError(f"{what}: none of its data is there; {parts[0].data.missing[0]} is missing")
    if problems:
        raise RunFailed(f"{len(problems)} problem{'s' * (len(problems) > 1)} in the data, the first: {problems[0]}")
    if num_images is None:
        _print_counts(parts, console)
    _say(console, "all files that the data sets name are there" + (" and fit" if num_images is None else ""))


def _wanted(what: str, cfg_options: Mapping[str, Any] | None) -> list[tuple[Mapping[str, Any], tuple[str, ...]]]:
    """The settings of every data set with its uses, each once."""
    wanted: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for use, settings in (_of_folder(Path(what)) if Path(what).is_dir() else _of_config(what, cfg_options)).items():
        for one in data_sets(settings):
            key = repr(
                sorted((name, str(value)) for name, value in one.items() if name not in ("pipeline", "test_mode"))
            )
            wanted.setdefault(key, (one, []))[1].append(use)
    return [(settings, tuple(uses)) for settings, uses in wanted.values()]


def _of_config(what: str, cfg_options: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    config = load_config(what, cfg_options)
    loaders = {use: config.get(f"{use}_dataloader") or {} for use in SPLITS}
    if data := {use: loader["dataset"] for use, loader in loaders.items() if loader.get("dataset")}:
        return data
    raise UserError(f"{what}: the config has no data; set test_dataloader = dict(dataset=dict(type=...), ...)")


def _of_folder(folder: Path) -> dict[str, Mapping[str, Any]]:
    if found := published(folder):
        layout, root = found
        return layout.parts(root)
    splits = splits_in(folder)
    if not splits:
        raise UserError(f"{folder / 'images'}: expected images, or sub-folders of them such as test; it is empty")
    names = {} if (folder / CLASSES_FILE).is_file() else {"metainfo": {"classes": UNNAMED}}
    data = {"type": "ImageLabelFolder", "data_root": str(folder), **names}
    return {split or "all": {**data, "split": split} for split in splits}


def _problems(part: Part) -> list[str]:
    """One line each."""
    data = part.data
    found = [f"{path} is missing" for path in data.missing]
    if not data.missing and not (data.pairs or data.absent or data.unlabelled):
        found.append(f"no images in {data.images}{_other_endings(data)}")
    unlabelled = f"images have no label{_archive_labels(data)}"
    for text, files in (("images of the list are not there", data.absent), (unlabelled, data.unlabelled),
                        ("labels have no image", data.orphans)):  # fmt: skip
        if files:
            found.append(f"{len(files)} {text}: {_first(files)}")
    shown = part.tally.problems[:SHOWN]
    found += shown
    if more := len(part.tally.problems) - len(shown):
        found.append(f"{more} more files that cannot be used")
    found += wrong_ids(part.tally, data) if part.tally.sizes else []
    return [f"{part.title}: {one}" for one in found]


def _first(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files[:SHOWN]) + (", ..." if len(files) > SHOWN else "")


def _other_endings(data: Inventory) -> str:
    """What else lies in a folder in which no image was found."""
    endings = {one.suffix for one in data.images.rglob("*") if one.suffix} if data.images else set()
    wanted = data.settings.get("img_suffix")
    told = f", but files ending in {', '.join(sorted(endings)[:SHOWN])}" if endings else ""
    return told + (f"; the config wants {wanted}" if told and wanted else "")


def _archive_labels(data: Inventory) -> str:
    """Cityscapes' labels as its archive has them, where the trainIds are asked for."""
    if data.kind != "CityscapesDataset" or not data.unlabelled or not any(data.labels.rglob(f"*{LABEL_IDS}")):
        return ""
    return (
        f" (the archive's *{LABEL_IDS} are there: take type='CityscapesLabelIdsDataset', which reads them, or let "
        f"csCreateTrainIdLabelImgs write the *{TRAIN_IDS})"
    )


def _print_part(part: Part, problems: Sequence[str], console: Console) -> None:
    data, tally = part.data, part.tally
    name = f"{part.layout.name} ({data.kind})" if part.layout else data.kind
    _say(console, f"{part.title}: {name}, images in {data.images}, labels in {data.labels}")
    if not data.missing:
        images = len(data.pairs) + len(data.unlabelled)
        _say(console, f"  {images} images, {len(data.pairs)} with a label{_published(part, images)}")
        _say(console, f"  images without a label: {len(data.unlabelled)}; labels without an image: {len(data.orphans)}")
    if part.layout and part.layout.name == "VOC 2012":
        _say(console, f"  {_voc_set(data)}")
    if tally.sizes:
        read, total = sum(tally.sizes.values()), sum(tally.pixels.values())
        sizes = [f"{height}x{width} in {count}" for (height, width), count in tally.sizes.most_common(SHOWN)]
        more = f" and {len(tally.sizes) - SHOWN} others" if len(tally.sizes) > SHOWN else ""
        _say(console, f"  sizes (height x width) of {read} labels read: {', '.join(sizes)}{more}")
        _say(console, f"  void: {100 * void_pixels(tally, data) / total:.2f} % of the pixels")
        console.print(_ids(part, total))
        _say(console, f"  {_absent(part)}")
    for problem in problems:
        _say(console, f"  PROBLEM {problem}")


def _published(part: Part, images: int) -> str:
    """How many there are where all are."""
    place = part.data.names.stem if part.data.names else part.data.images and part.data.images.name
    count = part.layout.published.get(place) if part.layout else None
    if count is None:
        return ""
    return ", all that were published" if images == count else f"; {count} were published as {place}"


def _voc_set(data: Inventory) -> str:
    """Which of VOC's sets the list of names and the folder of labels make."""
    name, labels = data.names.stem if data.names else "unknown", data.labels.name if data.labels else "no labels"
    notes = {
        "train": "the plain training set; the augmented one of 10582 images, which most published models saw, is "
        "trainaug.txt, or train.txt with aug.txt, with SegmentationClassAug",
        "aug": "the augmented training set without train.txt, which goes beside it",
        "trainval": "holds the images of val, which benchmarks measure on",
    }
    text = f"VOC set: {name}, with the labels of {labels}"
    return f"{text}; {notes[name]}" if name in notes else text


def _ids(part: Part, total: int) -> Table:
    """One line per id that occurs in the files."""
    data, tally = part.data, part.tally
    table = Table(title=None)
    for title in ("id in the files", "class", "name", "% of pixels", "labels"):
        table.add_column(title, overflow="fold", justify="left" if title == "name" else "right")
    for stored, meant in classes_of(tally, data).items():
        name = "NO CLASS" if meant is None else "void" if meant == data.ignore_index else data.class_names[meant]
        shown = "-" if meant is None or meant == data.ignore_index else str(meant)
        table.add_row(str(stored), shown, name, f"{100 * tally.pixels[stored] / total:.3f}", str(tally.labels[stored]))
    return table


def _absent(part: Part) -> str:
    """The classes without a pixel; of a folder that names none, how to name them."""
    data, counts = part.data, class_pixels(part.tally, part.data)
    if data.class_names == UNNAMED:
        highest = max((number for number, count in enumerate(counts) if count), default=0)
        return (
            f"no {CLASSES_FILE}: the highest class id is {highest}; evaluate wants --num-classes {highest + 1} or more"
        )
    absent = [name for name, count in zip(data.class_names, counts, strict=True) if not count]
    listed = ", ".join(absent[:8]) + (", ..." if len(absent) > 8 else "")
    return f"no pixel of {len(absent)} of the {len(counts)} classes: {listed}" if absent else "all classes occur"


def _print_counts(parts: Sequence[Part], console: Console) -> None:
    """The entry of a config that balances an attack by the training labels."""
    counted = [class_pixels(part.tally, part.data) for part in parts if "train" in part.uses]
    if counted and len({len(counts) for counts in counted}) == 1 and parts[0].data.class_names != UNNAMED:
        counts = [sum(one) for one in zip(*counted, strict=True)]
        _say(console, "pixels per class of the training labels, for class-balanced attacks; in a config:")
        _say(console, f"attack_defaults = dict(BalancedPGD=dict(class_counts={counts}))")
        _say(console, 'or, counted when first needed: attack_defaults = dict(BalancedPGD=dict(class_counts="train"))')


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
