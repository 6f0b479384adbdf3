"""``segrobust demo``, ``train`` and ``targets``: what makes a model, or what an attack is to reach."""

from __future__ import annotations

from pathlib import Path

from segrobust.commands import run
from segrobust.commands.parsing import checked, out_file
from segrobust.core.options import one_of
from segrobust.parsers.common import cfg_options, command, config, work_dir_option

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")


def demo(commands) -> None:
    parser = command(
        commands,
        "demo",
        "train a standard and a robust segmenter on synthetic scenes, attack both and write a report",
        run.demo,
        "segrobust demo",
        "segrobust demo --work-dir /tmp/demo",
    )
    work_dir_option(parser, "work_dirs/demo")


def train(commands) -> None:
    parser = command(
        commands,
        "train",
        "train a segmenter, adversarially where its config says so",
        run.train,
        "segrobust train configs/NAME.py",
        "segrobust train configs/NAME.py --resume",
        "segrobust train configs/NAME.py --cfg-options train_cfg.max_iters=100 randomness.seed=1",
        "torchrun --nproc_per_node 2 tools/train.py configs/NAME.py --launcher pytorch",
    )
    parser.set_defaults(interrupted="run the same command with --resume to go on from its last checkpoint, if any")
    config(parser)
    work_dir_option(parser, "work_dirs/<name of the config>")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the work dir")
    parser.add_argument("--amp", action="store_true", help="mixed precision (needs a GPU)")
    parser.add_argument(
        "--no-deterministic",
        action="store_true",
        help="a GPU may be faster, and a resumed training differs from an uninterrupted one",
    )
    parser.add_argument("--verbose", action="store_true", help="mmengine's whole log on the console, as in the file")
    cfg_options(parser)
    parser.add_argument(
        "--launcher",
        type=checked(one_of(*LAUNCHERS)),
        metavar=f"{{{','.join(LAUNCHERS)}}}",
        default="none",
        help="starter of the processes (default: none)",
    )


def targets(commands) -> None:
    parser = command(
        commands,
        "targets",
        "write the majority map of a config's training labels, the map of --target majority",
        run.targets,
        "segrobust targets configs/NAME.py --out majority.png",
        "segrobust evaluate configs/NAME.py weights.pth --attack cospgd --target mask:majority.png",
    )
    config(parser)
    what = "PNG of class ids; beside it goes FILE-colours.png (default: majority.png)"
    parser.add_argument("--out", type=out_file, metavar="FILE", default=Path("majority.png"), help=what)
    cfg_options(parser)
