"""A small evaluation on made-up images; also a script, so that torchrun can start it on several processes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from segrobust.datasets.source import Sample
from segrobust.models.segmenter import Segmenter
from segrobust.runs.folder import RunFolder
from tests.attacks.toys import SmallNet, batch

K = 4
RUN = {
    "attacks": ["TsallisPGD", "UniformNoise"],
    "eps": ["2/255", "8/255"],
    "steps": 5,
    "batch_size": 3,
    "checks": False,
}
COSTS = ("seconds", "images_per_second", "peak_bytes")


class ToySource:
    """Seven images of two sizes with a few void pixels."""

    num_classes = K
    class_names = ("a", "b", "<c>", "d")
    palette = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    ignore_index = 255

    def __init__(self, count: int = 7, salt: int = 0) -> None:
        net = SmallNet(K)
        self.samples = []
        for i in range(count):
            images, labels = batch(net, count=1, size=16 if i % 3 else 12, seed=i + 100 * salt)
            self.samples.append(Sample(images[0], labels[0], f"scene <{i}>"))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def toy_model() -> Segmenter:
    return Segmenter.wrap(SmallNet(K), num_classes=K, name="toy").eval()


def without_costs(records: list[dict]) -> list[dict]:
    """Records of a summary without what a clock or a memory counter gave."""
    return [{name: value for name, value in record.items() if name not in COSTS} for record in records]


def lines(folder: Path, rank: int | str = "*") -> list[bytes]:
    """The stored rows (of one process) as they are on disk, sorted."""
    return sorted(line for file in folder.glob(f"rows/rank-{rank}.jsonl") for line in file.read_bytes().splitlines())


def flat_rows(folder: Path) -> list[dict]:
    """The stored rows, each with its condition, counts and what its study added side by side."""
    return [
        {"name": one.name, "norm": one.norm, "eps": one.eps, "candidate": one.candidate, "image": row.image}
        | {**row.counts, **row.extra, "found": row.found}
        for row in RunFolder(folder).rows()
        for one in [row.condition]
    ]


def derived(folder: Path) -> set[str]:
    """Names of all files but those in rows/; a kill leaves no half-written one behind."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.parent.name != "rows"}


def main(work_dir: str, *attacks: str) -> None:
    from accelerate import PartialState

    from segrobust.commands.evaluation import evaluate

    torch.set_num_threads(1)
    settings = RUN | ({"attacks": attacks} if attacks else {})
    summary = evaluate(toy_model(), ToySource(), work_dir=work_dir, save_adversarial=True, **settings)
    state = PartialState()
    Path(work_dir, f"processes-{state.process_index}.txt").write_text(f"{state.num_processes} {len(summary)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
