"""What commands share: how one is added, and options of several."""

from __future__ import annotations

from segrobust.commands.inputs import CFG_OPTIONS, CONFIG
from segrobust.commands.parsing import Parser, cfg_option, checked, work_dir


def command(commands, name: str, what: str, function, *examples: str) -> Parser:
    epilog = "\n  ".join(("examples:", *examples))
    parser = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=epilog)
    parser.set_defaults(run=function, parser=parser)
    return parser


def config(parser: Parser) -> None:
    parser.add_argument("config", metavar="CONFIG", help=CONFIG)


def work_dir_option(parser: Parser, default: str) -> None:
    parser.add_argument(
        "--work-dir", type=checked(work_dir), metavar="DIR", help=f"for all results (default: {default})"
    )


def cfg_options(parser: Parser) -> None:
    more = {"nargs": "+", "action": "extend", "default": [], "help": CFG_OPTIONS}
    parser.add_argument("--cfg-options", type=checked(cfg_option), metavar="K=V", **more)


def as_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: the same as JSON")


def trust_checkpoint(parser: Parser) -> None:
    parser.add_argument("--trust-checkpoint", action="store_true", help="load a pickle that may run ANY code")
