"""The images of a run: an ordered list that may grow, and the batches in which they are attacked.

A row names an image by its place in the list. Images that a later start adds come after those that are there, in
batches of their own: so batches stay what they were, and with them the rows.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError
from segrobust.datasets.source import Sample, Source


@dataclass(frozen=True)
class RunImages:
    """entries: ``{name, sha256, index}`` each, the index that of its data set where known; starts: the places at which
    a start added images."""

    entries: tuple[Mapping[str, Any], ...] = ()
    starts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def batches(self, size: int) -> list[range]:
        """The places of all batches, the same whatever the number of processes."""
        ends = (*self.starts[1:], len(self))
        return [
            range(at, min(at + size, end))
            for start, end in zip(self.starts, ends, strict=True)
            for at in range(start, end, size)
        ]

    def grown(self, entries: Sequence[Mapping[str, Any]], folder: Path) -> tuple[RunImages, list[int]]:
        """The list with the images that it lacks, and for each of its places the index in ``entries``.

        Raises:
            UserError: an image of the list is not among ``entries``.
        """
        given: dict[tuple, list[int]] = defaultdict(list)
        for index, entry in reversed([*enumerate(entries)]):
            given[entry["name"], entry["sha256"]].append(index)
        order = []
        for entry in self.entries:
            same = given.get((entry["name"], entry["sha256"]))
            if not same:
                raise UserError(self._missing(entry, entries, folder))
            order.append(same.pop())
        new = sorted(index for same in given.values() for index in same)
        starts = (*self.starts, len(self)) if new else self.starts
        return RunImages((*self.entries, *(entries[index] for index in new)), starts), [*order, *new]

    def _missing(self, entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], folder: Path) -> str:
        changed = any(other["name"] == entry["name"] for other in entries)
        what = "is another one in these data" if changed else "is not among these data"
        return (
            f"{folder} holds a run on other images: its image {entry['name']!r} {what}; a run may get more images, but "
            "keeps those it has: give them too, or use another --work-dir, or --fresh to discard the stored run"
        )

    def content(self) -> dict[str, Any]:
        """For ``images.json``."""
        return {"starts": list(self.starts), "images": list(self.entries)}

    @classmethod
    def from_content(cls, content: Any, path: Path) -> RunImages:
        """What :meth:`content` made; UserError names the file ``path`` where it was not."""
        known = isinstance(content, dict) and all(isinstance(content.get(name), list) for name in ("images", "starts"))
        known = known and all(map(_is_entry, content["images"])) and all(type(at) is int for at in content["starts"])
        if not known:
            raise UserError(f"{path}: expected the images of a run, as segrobust writes them; start anew with --fresh")
        return cls(tuple(content["images"]), tuple(content["starts"]))


def _is_entry(one: Any) -> bool:
    return isinstance(one, dict) and {"name", "sha256"} <= set(one) and type(one.get("index", 0)) is int


def entries_of(source: Source) -> list[dict[str, Any]]:
    """Name and digest of every image with its label, and its index in the data set where the source knows it."""
    indices = getattr(source, "indices", None)
    entries = []
    for place in range(len(source)):
        if hasattr(source, "sha256"):
            name, sha256 = source.sha256(place)
        else:
            sample = source[place]
            name, sha256 = sample.name, sample_sha256(sample)
        entries.append({"name": name, "sha256": sha256, **({"index": indices[place]} if indices else {})})
    return entries


def sample_sha256(sample: Sample) -> str:
    """Digest of an image and its label as they are attacked and measured."""
    digest = hashlib.sha256(f"{tuple(sample.image.shape)} {tuple(sample.label.shape)}".encode())
    digest.update(sample.image.contiguous().numpy().tobytes())
    digest.update(sample.label.contiguous().numpy().tobytes())
    return digest.hexdigest()


class Ordered:
    """A source in the order of a run's list."""

    def __init__(self, source: Source, order: Sequence[int]) -> None:
        self._source, self._order = source, order

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of a copy that has nothing yet
            raise AttributeError(name)
        found = getattr(self._source, name)
        if name in ("original_label", "file_size", "sha256"):  # what is asked by an image's place
            return lambda place: found(self._order[place])
        return found

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> Sample:
        return self._source[self._order[place]]
