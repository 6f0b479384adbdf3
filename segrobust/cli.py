"""The command line: parse, check what can be checked at once, and only then import torch.

Exit status: 0 done; 1 ran but something failed; 2 the user's input was wrong, told in one line; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from segrobust.commands import run
from segrobust.commands.interrupt import Interrupts
from segrobust.commands.parsing import (
    Parser,
    batch_size,
    cfg_option,
    eps,
    file,
    out_file,
    positive,
    seed,
    target,
    work_dir,
)
from segrobust.core.errors import FailedElsewhere, RunFailed, UserError
from segrobust.core.processes import together
from segrobust.core.units import DEFAULT_EPS
from segrobust.datasets.target_spec import PLAIN

DEFAULT_ATTACKS = ["tsallis-pgd", "segpgd", "cospgd"]
CHECKS = (
    "can the results be trusted? quick (default): on 16 images, some 60 passes each, half a minute on one CPU core for "
    "the shipped models; full: besides, the strongest attack 5 times more on 8 images; off: no check"
)
_START = """start with:
  segrobust demo
  segrobust models
  segrobust evaluate NAME --attack tsallis-pgd --eps 1/255

segrobust COMMAND --help tells more about a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    with Interrupts("run the same command again to go on") as interrupts:
        try:
            return _run(argv, interrupts)
        except KeyboardInterrupt as error:
            return interrupts.tell(str(error) or interrupts.advice, error)
        except Exception as error:
            if interrupts.came:  # another process left first, or a data loader's worker
                return interrupts.tell(interrupts.advice, error)
            raise


def _run(argv: Sequence[str] | None, interrupts: Interrupts) -> int:
    try:
        options = _parse(argv)
        interrupts.advice = getattr(options, "interrupted", interrupts.advice)
        with together():
            return options.run(options) or 0
    except FailedElsewhere as error:
        return error.status
    except UserError as error:
        _tell(f"error: {one_line(error)}", error)
        return 2
    except RunFailed as error:
        _tell(one_line(error), error)
        return 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    try:
        parser = build_parser()
        options, leftover = parser.parse_known_args(argv)
        if leftover:
            options.parser.refuse(leftover)
        return options
    except UserError as error:
        error.told = os.environ.get("LOCAL_RANK", "0") != "0"  # all processes of a machine read the same words
        raise


def _tell(text: str, error: BaseException) -> None:
    """Print it, unless another process of the run does."""
    if not getattr(error, "told", False):
        print(f"segrobust: {text}", file=sys.stderr)


def one_line(error: Exception) -> str:
    """The error's text in one line, without the traceback that a data loader's worker puts before it."""
    text = str(error)
    if "Original Traceback" in text:
        text = text.rpartition("UserError: ")[2]
    return " ".join(text.split())


def build_parser() -> Parser:
    """The parser of every command; ``options.run`` is what the command does."""
    parser = Parser(
        prog="segrobust",
        description="Train adversarially robust semantic segmenters, attack checkpoints and compare defenses.",
        epilog=_START,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    commands = parser.add_subparsers(metavar="command", required=True, parser_class=Parser)
    for add in (_demo, _train, _evaluate, _targets, _report, _attacks, _models, _checkpoint):
        add(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        print(f"segrobust {run.version()}")
        parser.exit()


def _command(commands, name: str, what: str, function, *examples: str) -> Parser:
    epilog = "\n  ".join(("examples:", *examples))
    parser = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=epilog)
    parser.set_defaults(run=function, parser=parser)
    return parser


def _demo(commands) -> None:
    parser = _command(
        commands,
        "demo",
        "train a standard and a robust segmenter on synthetic scenes, attack both and write a report",
        run.demo,
        "segrobust demo",
        "segrobust demo --work-dir /tmp/demo",
    )
    _work_dir(parser, "work_dirs/demo")


def _train(commands) -> None:
    parser = _command(
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
    _config(parser)
    _work_dir(parser, "work_dirs/<name of the config>")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the work dir")
    parser.add_argument("--amp", action="store_true", help="mixed precision (needs a GPU)")
    _cfg_options(parser)
    launchers = ("none", "pytorch", "slurm", "mpi")
    parser.add_argument(
        "--launcher", choices=launchers, default="none", help="starter of the processes (default: none)"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def _evaluate(commands) -> None:
    parser = _command(
        commands,
        "evaluate",
        "attack a checkpoint and measure what is left of its accuracy",
        run.evaluate,
        "segrobust evaluate NAME                             a name from `segrobust models`, with its weights",
        "segrobust evaluate configs/NAME.py weights.pth --attack tsallis-pgd segpgd cospgd --eps 1/255 4/255",
        "segrobust evaluate configs/NAME.py weights.pth --attack cepgd:published --num-images 16",
        "segrobust evaluate NAME --attack cospgd --eps 4/255 --target class:road",
        "segrobust evaluate NAME --attack cospgd --eps 4/255 --source OTHER       images attacked on another model",
        "torchrun --nproc_per_node 2 tools/evaluate.py configs/NAME.py weights.pth",
    )
    _config(parser)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?", type=file, help="weights: .safetensors or .pth")
    parser.add_argument("--attack", nargs="+", metavar="NAME", default=DEFAULT_ATTACKS, help=_listed(DEFAULT_ATTACKS))
    parser.add_argument("--eps", nargs="+", type=eps, metavar="EPS", default=[DEFAULT_EPS], help=_listed([DEFAULT_EPS]))
    what = f"all pixels are to become this: {', '.join(PLAIN)}, class:NAME or mask:FILE (default: no longer right)"
    parser.add_argument("--target", type=target, metavar="SPEC", help=what)
    what = "attack this model instead, a config or a name, and measure the images on NAME (transfer)"
    parser.add_argument("--source", metavar="CONFIG", help=what)
    parser.add_argument("--source-checkpoint", metavar="CHECKPOINT", type=file, help="weights of the --source config")
    parser.add_argument("--steps", type=positive, metavar="N", help="steps of every attack (default: the attack's own)")
    parser.add_argument("--num-images", type=positive, metavar="N", help="evenly spaced images (default: all)")
    what = "images per batch, or auto: the most that fit into memory (default: 4)"
    parser.add_argument("--batch-size", type=batch_size, metavar="N", default=4, help=what)
    parser.add_argument("--seed", type=seed, metavar="N", default=0, help="of the attacks' random starts (default: 0)")
    _work_dir(parser, "work_dirs/<name of the config>/evaluation")
    parser.add_argument("--fresh", action="store_true", help="discard what an earlier run left in the work dir")
    what = "attack in mixed precision, bf16 unless told; predictions stay in float32"
    parser.add_argument("--amp", nargs="?", const="bf16", default=False, choices=("bf16", "fp16"), help=what)
    what = "fold batch normalisations into convolutions; refused where that changes a prediction"
    parser.add_argument("--fold-bn", action="store_true", help=what)
    what = "memory format of the attacked network, refused where it changes a prediction (default: channels-last)"
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True, help=what)
    what = "recompute activations in the backward pass: less memory, more time, the same numbers"
    parser.add_argument("--checkpointing", action="store_true", help=what)
    what = "for models that draw random numbers: attack the mean of N draws (default: 1)"
    parser.add_argument("--eot", type=positive, metavar="N", default=1, help=what)
    what = "where to measure: at the network's input, which is attacked, or at the labels' own size (default: input)"
    parser.add_argument("--metric-size", choices=("input", "original"), default="input", help=what)
    what = "PNG of one channel at the network's input size: attacks may write where it is not 0 (default: everywhere)"
    parser.add_argument("--mask", type=file, metavar="FILE", help=what)
    parser.add_argument("--checks", choices=("quick", "full", "off"), default="quick", help=CHECKS)
    what = "go on with a run of another segrobust (CODE) or other libraries (VERSIONS); run.json then tells of both"
    parser.add_argument(
        "--accept-different", nargs="+", action="extend", choices=("CODE", "VERSIONS"), default=[], help=what
    )
    what = "leave the report's pictures out, for which three images are attacked once more"
    parser.add_argument("--no-pictures", action="store_true", help=what)
    parser.add_argument("--save-adversarial", action="store_true", help="keep the attacked images")
    _weights(parser)
    parser.add_argument("--trust-checkpoint", action="store_true", help="load a pickle that may run ANY code")
    _cfg_options(parser)


def _targets(commands) -> None:
    parser = _command(
        commands,
        "targets",
        "write the majority map of a config's training labels, the map of --target majority",
        run.targets,
        "segrobust targets configs/NAME.py --out majority.png",
        "segrobust evaluate configs/NAME.py weights.pth --attack cospgd --target mask:majority.png",
    )
    _config(parser)
    what = "PNG of class ids; beside it goes FILE-colours.png (default: majority.png)"
    parser.add_argument("--out", type=out_file, metavar="FILE", default=Path("majority.png"), help=what)
    _cfg_options(parser)


def _report(commands) -> None:
    parser = _command(
        commands,
        "report",
        "write one HTML report over one or more run folders",
        run.report,
        "segrobust report work_dirs/standard/evaluation",
        "segrobust report work_dirs/standard/evaluation work_dirs/robust/evaluation --out compared.html",
    )
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path, help="work dir of a `segrobust evaluate`")
    parser.add_argument("--out", type=out_file, metavar="FILE", help="default: report.html in the first folder")


def _attacks(commands) -> None:
    what = "list the attacks, or what can be set of one"
    parser = _command(commands, "attacks", what, run.attacks, "segrobust attacks", "segrobust attacks tsallis-pgd")
    parser.add_argument("name", metavar="NAME", nargs="?", help="an attack")


def _models(commands) -> None:
    _command(commands, "models", "list the models whose weights come with segrobust", run.models, "segrobust models")


def _checkpoint(commands) -> None:
    parser = _command(
        commands,
        "checkpoint",
        "look into a checkpoint or make it safe to share",
        None,
        "segrobust checkpoint inspect weights.pth",
        "segrobust checkpoint convert weights.pth --half",
    )
    actions = parser.add_subparsers(metavar="action", required=True, parser_class=Parser)
    inspect = _command(
        actions,
        "inspect",
        "show a checkpoint's tensors, classes and sha256 without running its code",
        run.inspect,
        "segrobust checkpoint inspect weights.pth",
    )
    inspect.add_argument("file", metavar="FILE", type=file)
    convert = _command(
        actions,
        "convert",
        "turn a checkpoint into safetensors, which cannot hold code",
        run.convert,
        "segrobust checkpoint convert weights.pth",
        "segrobust checkpoint convert weights.pth --out small.safetensors --half",
    )
    convert.add_argument("file", metavar="FILE", type=file)
    convert.add_argument("--out", type=out_file, metavar="FILE", help="default: FILE with the ending .safetensors")
    _weights(convert)
    convert.add_argument("--half", action="store_true", help="half precision: half the size")


def _config(parser: Parser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a config file, or a name from `segrobust models`")


def _work_dir(parser: Parser, default: str) -> None:
    parser.add_argument("--work-dir", type=work_dir, metavar="DIR", help=f"for all results (default: {default})")


def _cfg_options(parser: Parser) -> None:
    what = "change the config, e.g. test_dataloader.dataset.data_root=/data/camvid"
    parser.add_argument("--cfg-options", nargs="+", type=cfg_option, metavar="K=V", default=[], help=what)


def _weights(parser: Parser) -> None:
    what = "the averaged (EMA) or the raw weights of a file with both (default: its main entry's, which is told)"
    parser.add_argument("--weights", choices=("ema", "raw"), help=what)


def _listed(names: Sequence[str]) -> str:
    return f"default: {' '.join(names)}"
