"""What the label files of a data set hold: pixels per id, sizes, and files that cannot be read; kept in a cache.

A cache is known by the names, sizes and times of change of its files: where one differs, they are read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segrobust.core.errors import UserError
from segrobust.core.files import replace_file
from segrobust.core.version import __version__
from segrobust.datasets.files import read_image, read_label
from segrobust.datasets.labels import check_size

_LOG = logging.getLogger(__name__)
THREADS = 8  # at most: decoding releases Python's lock
Pairs = Sequence[tuple[Path, Path]]


@dataclass
class Tally:
    """Sums over label files.

    pixels, labels, first: by the id in the file: its pixels, the files in which it occurs, and the first of them.
    sizes: files by (height, width).
    problems: one line for each file that is none, in the data set's order.
    images: whether the image files were read besides.
    """

    pixels: Counter[int] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)
    first: dict[int, str] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    images: bool = False

    def add(self, label: Path, ids: np.ndarray, counts: np.ndarray, size: tuple[int, int]) -> None:
        """One label file."""
        self.sizes[size] += 1
        for one, count in zip(ids.tolist(), counts.tolist(), strict=True):
            self.pixels[one] += count
            self.labels[one] += 1
            self.first.setdefault(one, label.name)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        ids = {str(one): [self.pixels[one], self.labels[one], self.first[one]] for one in sorted(self.pixels)}
        sizes = [[*size, count] for size, count in self.sizes.items()]
        return {"ids": ids, "sizes": sizes, "images": self.images}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Tally:
        """From JSON."""
        tally = cls(images=bool(record["images"]))
        for one, (pixels, labels, first) in record["ids"].items():
            tally.pixels[int(one)], tally.labels[int(one)], tally.first[int(one)] = int(pixels), int(labels), str(first)
        tally.sizes.update({(height, width): count for height, width, count in record["sizes"]})
        return tally


def count(pairs: Pairs, images: bool, advance: Callable[[], None]) -> Tally:
    """Read all of them, several at a time; the sums do not depend on how many."""
    tally, pool = Tally(images=images), ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))
    try:
        for (_, label), found in zip(pairs, pool.map(lambda pair: _look(*pair, images), pairs), strict=True):
            if isinstance(found, str):
                tally.problems.append(found)
            else:
                tally.add(label, *found)
            advance()
    finally:
        pool.shutdown(cancel_futures=True)
    return tally


def _look(image: Path, label: Path, images: bool) -> tuple[np.ndarray, np.ndarray, tuple[int, int]] | str:
    """The ids of a label, their pixels and its size, or what is wrong with it or its image."""
    try:
        stored = read_label(label)
        if images:
            check_size(stored, read_image(image).shape[:2], str(label))
    except UserError as error:
        return str(error)
    if stored.dtype == np.uint8:
        counts = np.bincount(stored.ravel(), minlength=256)
        ids = np.flatnonzero(counts)
        return ids, counts[ids], stored.shape
    return *np.unique(stored, return_counts=True), stored.shape


class Cache:
    """The file in which the tally of one data set is kept, made when first needed; without a folder none is kept.

    Args:
        folder: of all caches; None: no cache.
        place: what tells the data set from others whatever becomes of its files: its folders and list.
        pairs: image and label files, which are there now.
    """

    def __init__(self, folder: Path | None, place: str, pairs: Pairs) -> None:
        key = hashlib.sha256(place.encode()).hexdigest()[:16]
        self.file = None if folder is None else folder / f"labels-{key}.json"
        self.identity = identity_of(pairs)

    def read(self, images: bool) -> Tally | None:
        """What was kept, if the files are the same as then, and their ``images`` were read where they are to be."""
        if self.file is None:
            return None
        try:
            record = json.loads(self.file.read_text(encoding="utf-8"))
            same, tally = record["identity"] == self.identity, Tally.of(record)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _LOG.warning("the cache %s cannot be read (%s): the labels are read again", self.file, type(error).__name__)
            return None
        if not same:
            _LOG.warning("files have changed since their labels were counted, or segrobust has: they are read again")
        return tally if same and tally.images >= images else None

    def keep(self, tally: Tally) -> None:
        """Unless there are problems: a right to read, for one, changes no date."""
        if self.file is None or tally.problems:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.file, json.dumps({"identity": self.identity, **tally.record()}).encode())
        except (OSError, UserError) as error:
            _LOG.warning("the counts of the labels are not kept (%s); SEGROBUST_CACHE names another folder", error)


def identity_of(pairs: Pairs) -> str:
    """sha256 over the names, sizes and times of change of all files, and our version, whose reading it was."""
    digest = hashlib.sha256(__version__.encode())
    for path in (path for pair in pairs for path in pair):
        about = path.stat()
        digest.update(f"\n{path} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()


def cache_folder() -> Path:
    """``SEGROBUST_CACHE``, else ``segrobust`` in the user's folder of caches."""
    if own := os.environ.get("SEGROBUST_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segrobust"
