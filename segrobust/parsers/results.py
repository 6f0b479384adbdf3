"""``segrobust report`` and ``leaderboard``: what is made of finished runs."""

from __future__ import annotations

from pathlib import Path

from segrobust.commands import run
from segrobust.commands.inputs import Inputs
from segrobust.commands.network import Network
from segrobust.commands.parsing import EXPORTS, Parser, checked, file_ending, report_file, work_dir
from segrobust.core.options import whole
from segrobust.parsers.common import as_json, command


def report(commands) -> None:
    parser = command(
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


def leaderboard(commands) -> None:
    parser = command(
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
    verify = command(
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
    as_json(verify)
    _board(verify)
    _board_model(verify)
    build = command(
        actions,
        "build",
        "write leaderboard.json and index.html, one page without network",
        run.leaderboard_build,
        "segrobust leaderboard build",
    )
    _board(build)


def _leaderboard_add(actions) -> None:
    add = command(
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
