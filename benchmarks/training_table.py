"""Train every recipe for an equal share of a wall-clock budget, evaluate each with Standard, and write one table.

    python benchmarks/training_table.py --minutes 10                                      # one GPU, 360x480
    python benchmarks/training_table.py --minutes 10 --architectures upernet-convnext-t upernet-r50 --recipes cepgdat
    python benchmarks/training_table.py --minutes 5 --size 180 240 --recipes standard cepgdat --dry-run

The budget covers everything from the start of the script: measuring what an iteration of each recipe costs (at most a
tenth of it, but three iterations of each), training, and evaluation, whose time is set aside first. The rest is shared
in equal seconds, not iterations, anew before each recipe: what one has not used the others get. Learning rates,
warm-ups and averaging scale with the iterations that a recipe gets. Validation during training is left out.

5 % are planned for nothing. A training that would leave its evaluation no time, or takes twice its share, pauses with a
checkpoint; an evaluation that would end more than 5 % over the budget is not begun. So the script ends at most 5 %
late, and by what one evaluation takes longer than it was measured to.

Every recipe is a folder, WORK_DIR/ARCHITECTURE/RECIPE. The same command again goes on: what is done stays as it is,
what is half done resumes, what failed is tried again (from its last checkpoint, if any), and --minutes is the budget of
that call. Other settings need another WORK_DIR. WORK_DIR/table.md and table.json have all recipes that are there.
Nothing is downloaded: fpn-r18w24 starts from the shipped standard weights or from random ones, other architectures from
random ones.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the files beside this one

from benchmarks.training_recipes import ARCHITECTURES, DTYPES, FPN, RECIPES, STARTS
from benchmarks.training_rows import describe
from segrobust.commands.parsing import Parser, checked, work_dir
from segrobust.core.errors import UserError, unknown_name
from segrobust.core.files import only_process
from segrobust.core.options import one_of, whole
from segrobust.core.units import parse_eps


def run(options: argparse.Namespace, begun: float) -> int:
    """The whole script; 1 where a recipe failed."""
    import torch

    from benchmarks.training_session import Session

    warnings.filterwarnings("ignore", category=UserWarning, module="mmseg")  # of every training anew
    options.on_gpu = torch.cuda.is_available()
    if options.workers is None:
        options.workers = min(8, os.cpu_count() or 1) if options.on_gpu else 0
    if options.precision is None:
        options.precision = "bf16" if options.on_gpu else "float32"
    if options.precision != "float32" and not options.on_gpu:
        raise UserError(f"--precision {options.precision} needs a GPU, and there is none; take float32")
    state = options.work_dir / "state"
    state.mkdir(parents=True, exist_ok=True)
    with only_process(state / "lock"):
        session = Session(options, begun)
        for job in session.jobs:
            if job.retry and session.is_open(job):
                print(f"{job.name} failed and is tried again: {job.failure(session.how.key)}", flush=True)
        session.measure()
        print(describe(session.works(), session.plan()), flush=True)
        if not options.dry_run:
            session.do()
            print(session.write())
            minutes = (time.monotonic() - begun) / 60
            print(f"{minutes:.1f} of {options.minutes:g} minutes; {options.work_dir / 'table.md'}")
    return int(any(job.failure(session.how.key) for job in session.jobs))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="training_table.py", description=__doc__)
    parser.add_argument("--minutes", type=checked(positive), required=True, metavar="N", help="the budget of this call")
    parser.add_argument("--recipes", type=checked(named("recipe", RECIPES)), nargs="+", metavar="NAME",
                        default=list(RECIPES), help=f"of {' '.join(RECIPES)} (default: all)")  # fmt: skip
    parser.add_argument("--architectures", type=checked(named("architecture", ARCHITECTURES)), nargs="+",
                        metavar="NAME", default=[FPN],
                        help=f"of {' '.join(ARCHITECTURES)} (default: {FPN})")  # fmt: skip
    parser.add_argument("--size", type=checked(whole(32)), nargs=2, default=[360, 480], metavar=("H", "W"))
    parser.add_argument("--start", type=checked(one_of(*STARTS)), default="shipped", metavar="{shipped,random}",
                        help=f"weights that {FPN} starts from (default: shipped)")  # fmt: skip
    parser.add_argument("--batch-size", type=checked(whole(2)), default=8, metavar="N")
    parser.add_argument("--workers", type=checked(whole(0)), default=None, metavar="N",
                        help="that load images (default: 8 with a GPU, else 0)")  # fmt: skip
    parser.add_argument("--precision", type=checked(one_of(*DTYPES)), default=None, metavar="{float32,bf16,fp16}",
                        help="of training (default: bf16 with a GPU, else float32)")  # fmt: skip
    parser.add_argument("--seed", type=checked(whole(0)), default=0, metavar="N")
    parser.add_argument("--eps", type=checked(radius), default="4/255", metavar="EPS", help="of the evaluation")
    parser.add_argument("--eval-steps", type=checked(whole(1)), default=60, metavar="N", help="of Standard, in all")
    parser.add_argument("--num-images", type=checked(whole(1)), default=32, metavar="N", help="of the validation split")
    parser.add_argument("--work-dir", type=checked(work_dir), default=Path("work_dirs/training-table"), metavar="DIR")
    parser.add_argument("--dry-run", action="store_true", help="measure, print the plan, keep the costs, and stop")
    return parser.parse_args(arguments)


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"expected minutes above 0, got {text!r}")
    return value


def radius(text: str) -> str:
    parse_eps(text)
    return text


def named(kind: str, known: Any) -> Any:
    def check(text: str) -> str:
        if text not in known:
            raise unknown_name(kind, text, known)
        return text

    return check


def main(arguments: list[str] | None = None) -> int:
    begun = time.monotonic()
    try:
        return run(parse(arguments), begun)
    except UserError as error:
        print(f"training_table.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command again goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
