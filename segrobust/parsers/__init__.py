"""The parser of the command line, a file per kind of command. No torch is imported here."""

from __future__ import annotations

from segrobust.commands.parsing import Parser
from segrobust.core.version import __version__
from segrobust.parsers.evaluation import benchmark, evaluate
from segrobust.parsers.listing import attacks, checkpoint, data, models
from segrobust.parsers.results import leaderboard, report
from segrobust.parsers.training import demo, targets, train

COMMANDS = (demo, train, evaluate, benchmark, targets, report, leaderboard, attacks, models, checkpoint, data)
_START = """start with:
  segrobust demo
  segrobust models
  segrobust evaluate NAME --attack tsallis-pgd --eps 1/255

segrobust COMMAND --help tells more about a command."""


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
    for add in COMMANDS:
        add(commands)
    return parser
