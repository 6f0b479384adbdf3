"""The command line: parse, check what can be checked at once, and only then import torch.

Exit status: 0 done; 1 ran but something failed; 2 the user's input was wrong, told in one line; 130 interrupted;
141 whoever reads the output left early, as `head` does.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

from segrobust.commands import run
from segrobust.commands.benchmark_cells import Benchmarking
from segrobust.commands.inputs import CFG_OPTIONS, CONFIG, OR_FUNCTION, WEIGHTS, Inputs
from segrobust.commands.interrupt import Interrupts
from segrobust.commands.network import Network
from segrobust.commands.parsing import (
    EXPORTS,
    Parser,
    cfg_option,
    checked,
    file,
    file_ending,
    out_file,
    report_file,
    work_dir,
)
from segrobust.core.errors import FailedElsewhere, RunFailed, UserError
from segrobust.core.options import one_of, whole
from segrobust.core.processes import together
from segrobust.core.version import __version__
from segrobust.datasets.layouts import LAYOUTS, PLAIN
from segrobust.runs.settings import Settings

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
READER_LEFT = 128 + 13  # as a shell reports SIGPIPE
_BENCHMARK_FILE = """the file, such as configs/benchmarks/camvid.py (models and options are those of
`segrobust evaluate`; files are looked for beside this one, then in the current folder):
  name = "mine"
  models = [
      dict(name="standard", model="camvid-fpn-r18w24-std-180x240"),
      dict(name="ours", model="x.py", checkpoint="x.pth", recipe="X-AT", options=dict(data_root="/data/camvid")),
  ]
  studies = [
      dict(name="attacked", attacks=["Standard"], eps=["1/255", "4/255"], num_images=32),
      dict(name="corrupted", corruptions=["all"], severity=[1, 3, 5]),
  ]"""
_START = """start with:
  segrobust demo
  segrobust models
  segrobust evaluate NAME --attack tsallis-pgd --eps 1/255

segrobust COMMAND --help tells more about a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    with Interrupts("run the same command again to go on") as interrupts:
        try:
            status = _run(argv, interrupts)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            if not _reader_left():
                raise
            return READER_LEFT
        except SystemExit as error:  # rich leaves so, with a status of its own
            if not isinstance(error.__context__, BrokenPipeError):
                raise
            return READER_LEFT
        except KeyboardInterrupt as error:
            return interrupts.tell(str(error) or interrupts.advice, error)
        except Exception as error:
            if interrupts.came:  # another process left first, or a data loader's worker
                return interrupts.tell(interrupts.advice, error)
            raise


def _reader_left() -> bool:
    """Whether nobody reads the output any more; then what is still to be written at Python's end goes nowhere."""
    output = sys.stdout.fileno()
    watch = select.poll()
    watch.register(output, 0)
    if not any(event & select.POLLERR for _, event in watch.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)
    return True


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
        error.reported = os.environ.get("LOCAL_RANK", "0") != "0"  # all processes of a machine read the same words
        raise


def _tell(text: str, error: BaseException) -> None:
    """Print it, unless another process of the run does."""
    if not getattr(error, "reported", False):
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
    parser.add_argument(
        "--version", action="version", version=f"segrobust {__version__}", help="print the version and leave"
    )
    commands = parser.add_subparsers(metavar="command", required=True, parser_class=Parser)
    parser.commands = commands.choices
    for add in (
        _demo, _train, _evaluate, _benchmark, _targets, _report, _leaderboard, _attacks, _models, _checkpoint, _data,
    ):  # fmt: skip
        add(commands)
    return parser


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
    parser.add_argument(
        "--no-deterministic",
        action="store_true",
        help="a GPU may be faster, and a resumed training differs from an uninterrupted one",
    )
    parser.add_argument("--verbose", action="store_true", help="mmengine's whole log on the console, as in the file")
    _cfg_options(parser)
    parser.add_argument(
        "--launcher",
        type=checked(one_of(*LAUNCHERS)),
        metavar=f"{{{','.join(LAUNCHERS)}}}",
        default="none",
        help="starter of the processes (default: none)",
    )


def _evaluate(commands) -> None:
    parser = _command(
        commands,
        "evaluate",
        "attack a checkpoint and measure what is left of its accuracy",
        run.evaluate,
        "segrobust evaluate NAME                             a name from `segrobust models`, with its weights",
        "segrobust evaluate configs/NAME.py weights.pth --attack tsallis-pgd segpgd cospgd --eps 1/255 4/255",
        "segrobust evaluate configs/NAME.py weights.pth --attack cepgd:published --num-images 16",
        "segrobust evaluate my_net.py:build weights.pth --data FOLDER --num-classes 11 --mean 0.4 0.4 0.4",
        "segrobust evaluate my_net.py:build weights.pth --data FOLDER --num-classes 11 --channel-order bgr "
        "--input-range 255",
        "segrobust evaluate mmseg::pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512 weights.pth "
        "--protocol voc473-void-as-background-21 --data-root DIR",
        "segrobust evaluate NAME --attack cospgd --eps 4/255 --target class:road",
        "segrobust evaluate NAME --attack cospgd --eps 4/255 --surrogate OTHER    images attacked on another model",
        'segrobust evaluate NAME --attack "tsallis-pgd(q_start=-3)" ddn --norm L2 --eps 0.5    any field of an attack',
        "segrobust evaluate NAME --attack my-attack --import my_attack.py         one of your own",
        "segrobust evaluate NAME --corruptions all --severity 1 3 5               fog, noise, blur, ...",
        "segrobust evaluate NAME --universal perturbation patch                   one for all images",
        "torchrun --nproc_per_node 2 tools/evaluate.py configs/NAME.py weights.pth",
    )
    parser.add_options(Inputs, "models, data and your own code")
    parser.add_options(Network, "a network of your own (FILE.py:FUNCTION)")
    parser.add_options(Settings, "evaluation")


def _benchmark(commands) -> None:
    parser = _command(
        commands,
        "benchmark",
        "evaluate models under studies that a file lists, and compare them in one table",
        run.benchmark,
        "segrobust benchmark configs/benchmarks/smoke.py                does it work here? two minutes, no data needed",
        "segrobust benchmark configs/benchmarks/camvid.py --dry-run     what it will take",
        "segrobust benchmark configs/benchmarks/camvid.py               started again it goes on",
        "segrobust benchmark my.py --only ours other/corruptions '*/min-norm'",
        "segrobust benchmark my.py --num-images 4                       a smaller trial, in a folder of its own",
        "torchrun --nproc_per_node 2 tools/benchmark.py my.py",
    )
    parser.epilog += f"\n\n{_BENCHMARK_FILE}"
    parser.add_options(Benchmarking, "benchmark")


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
        "segrobust report work_dirs/standard/evaluation --interactive --out interactive.html",
        "segrobust report work_dirs/standard/evaluation --csv all.csv --latex table.tex --figures figures",
        "segrobust report work_dirs/standard/evaluation --model-card README.md",
        "segrobust report work_dirs/NAME                                a training, while it runs too",
    )
    what = "work dir of a `segrobust evaluate` or a `segrobust train`"
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path, help=what)
    what = "the HTML report (default: report.html in the first folder, where nothing else is asked for)"
    parser.add_argument("--out", type=report_file, metavar="FILE.html", help=what)
    for option, (ending, what) in EXPORTS.items():
        parser.add_argument(option, type=file_ending(ending), metavar=f"FILE{ending}", help=what)
    parser.add_argument("--figures", type=checked(work_dir), metavar="DIR", help="curves as PDF and SVG")
    what = "curves that answer to the mouse, and a file of 5 MB more (needs plotly: the extra interactive)"
    parser.add_argument("--interactive", action="store_true", help=what)


def _leaderboard(commands) -> None:
    parser = _command(
        commands,
        "leaderboard",
        "rank models by the lowest robust score that anybody has found and that was measured here",
        None,
        "segrobust leaderboard add work_dirs/mine/evaluation",
        "segrobust leaderboard build",
    )
    actions = parser.add_subparsers(metavar="action", required=True, parser_class=Parser)
    parser.commands = actions.choices
    _leaderboard_add(actions)
    verify = _command(
        actions,
        "verify",
        "tell whether schema, digests, metrics, ranks and page follow from the rows that are kept",
        run.leaderboard_verify,
        "segrobust leaderboard verify",
        "segrobust leaderboard verify --strict --json",
        "segrobust leaderboard verify ENTRY --strict --model configs/NAME.py weights.pth",
    )
    verify.add_argument("entries", metavar="ENTRY", nargs="*", help="what --strict measures again (default: all)")
    what = "measure clean and attacked images that are kept again, with the model"
    verify.add_argument("--strict", action="store_true", help=what)
    _json(verify)
    _board(verify)
    _board_model(verify)
    build = _command(
        actions,
        "build",
        "write leaderboard.json and index.html, one page without network",
        run.leaderboard_build,
        "segrobust leaderboard build",
    )
    _board(build)


def _leaderboard_add(actions) -> None:
    add = _command(
        actions,
        "add",
        "add finished runs or a benchmark, or lower an entry of another by attacked images",
        run.leaderboard_add,
        "segrobust leaderboard add work_dirs/mine/evaluation --paper 'Someone, 2026' --claimed clean=75.2 4/255=64.9",
        "segrobust leaderboard add work_dirs/benchmark",
        "segrobust leaderboard add --for ENTRY --images work_dirs/mine/evaluation/adversarial --model NAME",
        "segrobust leaderboard add --for ENTRY --rows work_dirs/mine/evaluation",
    )
    what = "work dirs of a `segrobust evaluate` or a `segrobust benchmark`"
    add.add_argument("run_dirs", metavar="RUN_DIR", nargs="*", type=Path, help=what)
    for name, kind, what in (
        ("paper", str, "where the model is published"),
        ("architecture", str, "its network, in words"),
        ("parameters", checked(whole(1)), "how many it has"),
        ("training", str, "how it was trained, in words"),
    ):
        add.add_argument(f"--{name}", type=kind, metavar=name.upper(), help=f"{what}; shown, not checked")
    what = "the authors' scores in percent: clean=mIoU, RADIUS=mIoU[,aAcc], or a JSON file; shown, never ranked"
    add.add_argument("--claimed", metavar="CLAIM", nargs="+", action="extend", default=[], help=what)
    lower = add.add_argument_group("lowering an entry")
    lower.add_argument("--for", dest="entry", metavar="ENTRY", help="id of the entry to lower")
    what = "attacked images: a folder as --save-adversarial leaves it, or one tensor as .npy or .safetensors"
    lower.add_argument("--images", type=Path, metavar="PATH", help=what)
    what = "a run on the same weights: its saved images count once measured with --model; rows alone never do"
    lower.add_argument("--rows", type=Path, metavar="RUN_DIR", help=what)
    lower.add_argument("--by", metavar="NAME", help="who sends it")
    _board(add)
    _board_model(add)


def _board(parser: Parser) -> None:
    what = "the leaderboard's folder (default: leaderboard)"
    parser.add_argument("--board", type=checked(work_dir), metavar="DIR", default=Path("leaderboard"), help=what)


def _board_model(parser: Parser) -> None:
    what = "the entry's model, as for `segrobust evaluate`"
    parser.add_argument("--model", metavar="CONFIG [CHECKPOINT]", nargs="+", default=[], help=what)
    names = ("data", "split", "protocol", "data_root", "imports", "cfg_options", "weights", "trust_checkpoint")
    parser.add_options(Inputs, "the model's data and your own code", names)
    parser.add_options(Network, "a network of your own (FILE.py:FUNCTION)")


def _attacks(commands) -> None:
    what = "list the attacks, or what can be set of one"
    parser = _command(commands, "attacks", what, run.attacks, "segrobust attacks", "segrobust attacks tsallis-pgd")
    parser.add_argument("name", metavar="NAME", nargs="?", help="an attack")


def _models(commands) -> None:
    parser = _command(
        commands,
        "models",
        "list the shipped and the published models, or all about one",
        run.models,
        "segrobust models",
        "segrobust models pirat-upernet-convnext-t-voc",
        "segrobust models --json",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a model")
    _json(parser)


def _checkpoint(commands) -> None:
    parser = _command(
        commands,
        "checkpoint",
        "look into a checkpoint or make it safe to share",
        None,
        "segrobust checkpoint inspect weights.pth",
        "segrobust checkpoint convert weights.pth weights.safetensors",
    )
    actions = parser.add_subparsers(metavar="action", required=True, parser_class=Parser)
    parser.commands = actions.choices
    inspect = _command(
        actions,
        "inspect",
        "tell what a checkpoint holds and which model it fits, without running its code",
        run.inspect,
        "segrobust checkpoint inspect weights.pth",
        "segrobust checkpoint inspect weights.pth --model configs/NAME.py my_net.py:build",
        "segrobust checkpoint inspect weights.pth --json",
    )
    inspect.add_argument("file", metavar="FILE", type=file)
    compare = f"compare with these too: {OR_FUNCTION}"
    inspect.add_argument("--model", metavar="MODEL", nargs="+", action="extend", default=[], help=compare)
    _json(inspect)
    _trust(inspect)
    convert = _command(
        actions,
        "convert",
        "turn a checkpoint's weights into safetensors, which cannot hold code",
        run.convert,
        "segrobust checkpoint convert weights.pth",
        "segrobust checkpoint convert weights.pth small.safetensors --half",
        "segrobust checkpoint convert weights.pth averaged.safetensors --weights ema",
    )
    convert.add_argument("file", metavar="FILE", type=file)
    what = "a file that is not there yet (default: FILE with the ending .safetensors)"
    convert.add_argument("out", metavar="OUT", type=out_file, nargs="?", help=what)
    convert.add_argument("--weights", type=checked(one_of("ema", "raw")), metavar="{ema,raw}", help=WEIGHTS)
    convert.add_argument("--half", action="store_true", help="half precision: half the size")
    _trust(convert)


def _json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: the same as JSON")


def _trust(parser: Parser) -> None:
    parser.add_argument("--trust-checkpoint", action="store_true", help="load a pickle that may run ANY code")


def _data(commands) -> None:
    parser = _command(
        commands, "data", "look into data before anything is run on them", None, "segrobust data check FOLDER"
    )
    actions = parser.add_subparsers(metavar="action", required=True, parser_class=Parser)
    parser.commands = actions.choices
    check = _command(
        actions,
        "check",
        "tell what data hold: counts, sizes, ids and the classes they become, void; what is missing or wrong",
        run.check_data,
        "segrobust data check configs/NAME.py",
        "segrobust data check /data/cityscapes",
        "segrobust data check /data/VOCdevkit/VOC2012",
        "segrobust data check mmseg::_base_/datasets/ade20k.py --cfg-options val_dataloader.dataset.data_root=DIR",
    )
    check.epilog += "\n\n".join(["\n\nexit status: 0 all is there; 1 something is missing or wrong; 2 no such data\n\n"
                                 "how data are laid out:", *(layout.text for layout in LAYOUTS), PLAIN])  # fmt: skip
    check.add_argument("data", metavar="CONFIG|FOLDER", help=f"{CONFIG}; or a folder of data")
    what = "look into so many files of each data set, evenly spaced (default: all)"
    check.add_argument("--num-images", type=checked(whole(1)), metavar="N", help=what)
    _cfg_options(check)


def _config(parser: Parser) -> None:
    parser.add_argument("config", metavar="CONFIG", help=CONFIG)


def _work_dir(parser: Parser, default: str) -> None:
    parser.add_argument(
        "--work-dir", type=checked(work_dir), metavar="DIR", help=f"for all results (default: {default})"
    )


def _cfg_options(parser: Parser) -> None:
    more = {"nargs": "+", "action": "extend", "default": [], "help": CFG_OPTIONS}
    parser.add_argument("--cfg-options", type=checked(cfg_option), metavar="K=V", **more)
