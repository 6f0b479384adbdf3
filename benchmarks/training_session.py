"""One call of training_table.py: what is to do, what it costs, and doing it within the budget."""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.training_job import STATE, Job
from benchmarks.training_recipes import Work, passes, recipe_config, spread
from benchmarks.training_rows import read_costs, rows_of, write_costs, write_table
from benchmarks.training_work import Evaluation, evaluated, failures, measured, trained
from segrobust.core.errors import UserError

MEASURING = 0.1  # of the budget, at most
RESERVE = 0.05
OVERRUN = 2.0  # times its share, after which a training pauses
WARM, COUNTED = 2, 4  # iterations of a measurement
GPU_WARM, GPU_COUNTED = 4, 10  # graphs are captured in the first ones


class Session:
    """One call of the script: its jobs, what they cost, and when it has to end."""

    def __init__(self, options: argparse.Namespace, begun: float) -> None:
        self.options, self.budget = options, 60 * options.minutes
        self.end = begun + self.budget
        names = ("size", "start", "batch_size", "precision", "seed")
        settings = {name: getattr(options, name) for name in names}
        self.jobs = [
            Job.opened(
                architecture,
                recipe,
                options.work_dir / architecture / recipe,
                recipe_config(recipe, architecture, **settings),
                settings,
            )
            for architecture in dict.fromkeys(options.architectures)
            for recipe in dict.fromkeys(options.recipes)
        ]
        asked = {job.folder for job in self.jobs}
        folders = [file.parent for file in sorted(options.work_dir.glob(f"*/*/{STATE}"))]
        self.others = [  # which stand in the table, and must be of the same settings
            Job.opened(folder.parent.name, folder.name, folder, None, settings)
            for folder in folders
            if folder not in asked
        ]
        self.how = Evaluation(options.eps, options.eval_steps, options.num_images, options.batch_size)
        self.facts = {
            **settings,
            "workers": options.workers,
            "evaluation": self.how.key,
            "device": torch.cuda.get_device_name() if options.on_gpu else "CPU",
        }
        self.costs = read_costs(options.work_dir, self.facts)
        self.expected = self.spent = 0.0
        for job in self.jobs:
            job.config.train_dataloader.update(num_workers=options.workers, persistent_workers=options.workers > 0)

    @property
    def pace(self) -> float:
        """Seconds that trainings of this call took, over those that were expected."""
        return self.spent / self.expected if self.expected else 1.0

    def is_open(self, job: Any) -> bool:
        done = self.how.key in job.state.get("evaluations", {})
        return not done and (job.failure(self.how.key) is None or job.retry)

    def works(self) -> dict[str, Work]:
        """What is still to do."""
        found = {}
        for job in self.jobs:
            if self.is_open(job):
                cost = self.costs.get(job.name, {"iteration": 1.0, "setup": 0.0})  # not asked for where it is trained
                costs = (self.pace * cost["iteration"], self.pace * cost["setup"], self.costs[job.architecture])
                found[job.name] = Work(*costs, job.planned, job.done)
        return found

    def measure(self) -> None:
        """The costs that are not known from an earlier call."""
        open_jobs = [job for job in self.jobs if self.is_open(job)]
        for job in open_jobs:
            if job.architecture not in self.costs:
                self.costs[job.architecture] = self.how.seconds(job.config)
        new = [job for job in open_jobs if job.name not in self.costs and not job.trained]
        on_gpu = self.options.on_gpu
        warm = GPU_WARM + 2 * self.options.workers if on_gpu else WARM  # workers have two batches each ready
        count = max(GPU_COUNTED, 2 * self.options.workers) if on_gpu else COUNTED
        for job in new:
            with failures(job):
                found = measured(job, warm, count, MEASURING * self.budget / len(new))
                self.costs[job.name] = found
                print(
                    f"{job.name}: {found['iteration']:.3g} s an iteration, {found['setup']:.1f} s besides", flush=True
                )
        write_costs(self.options.work_dir, self.facts, self.costs)

    def left(self) -> float:
        return self.end - time.monotonic() - RESERVE * self.budget

    def plan(self) -> dict[str, int]:
        """Iterations for everything that is still to do; UserError: for one that is not begun there is no time."""
        works = self.works()
        found = spread(self.left(), works)
        short = [name for name, one in works.items() if one.planned is None and not found[name]]
        if short and not any(one.planned is not None for one in works.values()):
            evaluations = sum(one.evaluation for one in works.values())
            raise UserError(f"--minutes {self.options.minutes:g}: no time for an iteration of {short[0]}, as "
                            f"{evaluations / 60:.1f} min go to evaluation; give more, or fewer --recipes, --num-images "
                            "or --eval-steps")  # fmt: skip
        return found

    def do(self) -> None:
        """Train and evaluate one after the other, what is begun first; the table is written after each.

        What a recipe has left undone waits for another call: its time goes to those behind it.
        """
        order = sorted(self.jobs, key=lambda job: job.planned is None)
        for place, job in enumerate(order):
            ahead = {one.name for one in order[place:]}
            works = {name: work for name, work in self.works().items() if name in ahead}
            if job.name not in works:
                continue
            iterations = spread(self.left(), works)[job.name]
            if not works[job.name].trained and iterations:
                self.train(job, works[job.name], iterations)
            if job.trained and self.is_open(job):
                self.evaluate(job, works[job.name].evaluation)
            self.write()

    def train(self, job: Any, left: Work, iterations: int) -> None:
        before, begun = job.done, time.monotonic()
        share = left.setup + iterations * left.iteration
        deadline = min(begun + OVERRUN * share, self.end - left.evaluation)
        cost = self.costs[job.name]
        job.begin()
        with failures(job):
            total = iterations if job.planned is None else job.planned
            print(f"{job.name}: training, {total - before} iterations in about {share / 60:.1f} min", flush=True)
            trained(job, total, passes(job.config), cost["iteration"], deadline)
        if made := job.done - before:
            self.spent += time.monotonic() - begun
            self.expected += cost["setup"] + made * cost["iteration"]

    def evaluate(self, job: Any, seconds: float) -> None:
        if time.monotonic() + seconds > self.end + RESERVE * self.budget:
            return
        print(f"{job.name}: evaluation in about {seconds / 60:.1f} min", flush=True)
        job.begin()
        with failures(job):
            evaluated(job, self.how)
            self.costs[job.architecture] = job.state["evaluations"][self.how.key]["seconds"]

    def write(self) -> str:
        """The table of all jobs that are there, this call's or not."""
        return write_table(self.options.work_dir, rows_of([*self.jobs, *self.others], self.how), self.facts)
