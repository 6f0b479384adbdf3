"""SIGKILL to all processes of a run, at moments that nobody chose: it goes on, and ends as if nothing had been."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from segrobust.runs.folder import RunFolder
from tests.runs.killable import Group, began
from tests.runs.toy_run import derived, lines, without_costs

KILLS = 20
MOMENT = 0.02  # seconds: about what a batch takes
PATIENCE = 300.0


@dataclass
class Story:
    """What became of one run folder: its starts, each with a log per process, and the rows that every kill left."""

    folder: Path
    processes: int
    starts: int = 0
    left: list[int] = field(default_factory=list)

    @property
    def logs(self) -> list[Path]:
        return [self.folder.with_name(f"{self.folder.name}-log-{start}") for start in range(1, self.starts + 1)]

    def start(self) -> Group:
        self.starts += 1
        return Group(self.folder, self.logs[-1], self.processes)

    def kill_until_it_ends(self, chance: random.Random, longest: float) -> None:
        """Half of the kills come after a random time, half a random moment after a random number of batches."""
        while True:
            group, by_time = self.start(), chance.random() < 0.5
            batches, wait = chance.randint(1, 5), chance.uniform(0, longest if by_time else MOMENT)
            while not by_time and sum(map(len, began(self.logs[-1]))) < batches and not group.finishes(0.001):
                pass
            if group.finishes(wait):
                return
            group.kill()
            self.left.append(assert_nothing_torn(self.folder))


@dataclass(frozen=True)
class Calm:
    """An undisturbed run: its folder, the model's calls per batch, and the seconds it took."""

    folder: Path
    calls: dict[str, int]
    seconds: float


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Calm:
    story = Story(tmp_path_factory.mktemp("calm") / "run", 1)
    assert story.start().finishes(PATIENCE)  # the first one also waits for the fork server
    story, before = Story(story.folder.with_name("again"), 1), time.monotonic()
    assert story.start().finishes(PATIENCE)
    ((*batches,),) = began(story.logs[0])
    assert len(batches) == len(dict(batches)) == 4 * 5  # clean, two radii, a minimum norm; nine images in twos
    return Calm(story.folder, dict(batches), time.monotonic() - before)


def assert_nothing_torn(folder: Path) -> int:
    """What has its name is whole, and the rows can be read; returns how many there are."""
    for file in folder.rglob("*.json"):
        json.loads(file.read_bytes())
    for file in folder.glob("images/*.png"):
        Image.open(file).load()
    if (page := folder / "report.html").exists():
        assert page.read_text().rstrip().endswith("</html>")
    return len(RunFolder(folder).rows())


def assert_computed_once(story: Story, calm: Calm) -> None:
    """Only what was in flight when a kill came was begun again."""
    finished: set[str] = set()
    for log in story.logs:
        for batches in began(log):
            names = [name for name, _ in batches]
            assert finished.isdisjoint(names)
            assert all(calls == calm.calls[name] for name, calls in batches[:-1])
            finished.update(names[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments_it_ends_as_if_undisturbed(calm, tmp_path, processes):
    chance, stories = random.Random(processes), []
    while sum(len(story.left) for story in stories) < KILLS:
        stories.append(Story(tmp_path / f"run-{len(stories)}", processes))
        stories[-1].kill_until_it_ends(chance, 0.6 * calm.seconds * processes**0.5)
    for story in stories:
        assert lines(story.folder) == lines(calm.folder)
        summaries = [json.loads((folder / "summary.json").read_bytes()) for folder in (story.folder, calm.folder)]
        assert without_costs(summaries[0]) == without_costs(summaries[1])
        costs = RunFolder(story.folder).timings()
        assert len({(cost["condition"], cost["image"]) for cost in costs}) == len(lines(calm.folder))
        assert derived(story.folder) == derived(calm.folder)
        assert_computed_once(story, calm)
    left = {rows for story in stories for rows in story.left}
    assert len(left - {0, len(lines(calm.folder))}) >= 4  # the kills did fall into the rows
