"""The blocks and commands of README.md and of the pages in docs/, and the small things that stand in for a user's own.

A block that cannot run is marked on the page: ``<!-- not run: REASON -->`` in the line before it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGES = {page.name: page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S
)
CLASSES, VOID = 11, 255


class Block(NamedTuple):
    page: str
    language: str
    text: str
    reason: str | None

    @property
    def first(self) -> str:
        return self.text.splitlines()[0]


def blocks(page: str) -> list[Block]:
    """All of a page but MyST's directives."""
    found = FENCE.finditer(PAGES[page].read_text(encoding="utf-8"))
    made = (Block(page, one["language"].strip(), one["text"], one["reason"]) for one in found)
    return [one for one in made if not one.language.startswith("{")]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def commands(language: str = "console") -> Iterator[tuple[str, list[str]]]:
    """Page and words of every command; ``#`` begins a comment, a backslash at its end continues a line."""
    for block in BLOCKS:
        if block.language == language:
            for line in block.text.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield block.page, words


def network_file(folder: Path) -> Path:
    """``my_net.py`` with ``build``, which a page calls the user's own."""
    file = folder / "my_net.py"
    file.write_text(
        "from torch import nn\n\n\n"
        f"def build(num_classes={CLASSES}):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, num_classes, 1))\n"
    )
    return file


def image_folder(folder: Path, classes: int, split: str = "") -> Path:
    """Two small images with labels."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    for index in range(2):
        label = rng.integers(0, classes, (24, 32)).astype(np.uint8)
        label[0] = VOID
        Image.fromarray(label).save(folder / "labels" / split / f"{index}.png")
        image = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / split / f"{index}.png")
    return folder


def saved_folders(folder: Path) -> dict[str, Path]:
    """What ``hf:FOLDER`` and ``smp:FOLDER`` look like before anything of them is loaded."""
    made = {"hf": folder / "hf", "smp": folder / "smp"}
    contents = {"hf": {"model_type": "segformer", "id2label": {}}, "smp": {"_model_class": "Unet", "classes": CLASSES}}
    for library, place in made.items():
        place.mkdir()
        (place / "config.json").write_text(json.dumps(contents[library]))
        (place / "model.safetensors").touch()
        (place / "preprocessor_config.json").write_text("{}")
    return made
