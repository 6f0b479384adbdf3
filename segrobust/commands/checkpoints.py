"""``segrobust checkpoint``: what a file holds, which models it fits and what to do next; the same as safetensors."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segrobust.core.own_code import names_function
from segrobust.models.checkpoint.inspection import inspect_checkpoint
from segrobust.models.checkpoint.loading import convert_checkpoint, sha256
from segrobust.models.fitting import GIVEN, PUBLISHED_BY_OTHERS, TORCHVISION, Fit, best_first, given_fit, known_fits
from segrobust.models.published import PUBLISHED

MOST = 5  # rows of models that nobody asked for
SHOWN = 12  # of many things of one kind
COUNTED = "match: keys of one shape in both; miss: the model's alone; extra: the file's alone; shape: of another shape"
OF_MMSEG = "decode_head"  # a part of all its segmentors
SHAPES_CANNOT_TELL = "neither keys nor shapes tell which of them the file is"


class Step(NamedTuple):
    """A command that is ready but for its capital words, and why."""

    why: str
    command: str


def inspect_command(path: Path, models: Sequence[str], *, as_json: bool = False, trust: bool = False) -> None:
    """Print what the file holds, how the best known and all named models match, and what to do next."""
    facts, weights = inspect_checkpoint(path, trust)
    named = [given_fit(model, path, weights, trust) for model in models]
    known = [fit for fit in known_fits(path, weights, facts["sha256"]) if fit.name not in models]
    most = max(MOST, sum(fit.fits for fit in known))
    fits = best_first([*named, *known[:most]])
    steps = next_steps(path, facts, fits, " --trust-checkpoint" if trust else "")
    if as_json:
        rows = [{"name": fit.name, "fits": fit.fits, **asdict(fit)} for fit in fits]
        print(json.dumps({**facts, "models": rows, "next": [step._asdict() for step in steps]}, indent=1))
        return
    for name, value in facts.items():
        print(f"{name}: {printable(_words(name, value))}")
    print()
    _print_fits(fits)
    for step in steps:
        print(f"{printable(step.why)}:\n  {printable(step.command)}")


def convert_command(path: Path, target: Path, half: bool, weights: str | None, trust: bool) -> None:
    """Write the weights as safetensors and print where, and the sha256 of the new file."""
    convert_checkpoint(path, target, half=half, weights=weights, trust=trust)
    print(f"{target}\nsha256: {sha256(target)}")


def next_steps(path: Path, facts: dict[str, Any], fits: Sequence[Fit], flags: str = "") -> list[Step]:
    """What to do with the file: attack it where a model takes it, else name a model; and make it safe to share."""
    target = path.with_suffix(".safetensors")
    fitting = [fit for fit in fits if fit.fits]
    steps = []
    if "not finite" in facts:
        steps.append(Step("no model takes NaN or infinity; take an earlier checkpoint of the training and look into it",
                          "segrobust checkpoint inspect FILE"))  # fmt: skip
    elif fitting:
        steps.append(Step(_why(fitting), _evaluate(path, facts, fitting[0], flags)))
    else:
        steps.append(_name_a_model(path, facts, flags))
    if facts["format"] != "safetensors" and "not finite" not in facts and not target.exists():
        why = "to share it as a file that cannot hold code, its weights and class names alone"
        steps.append(Step(why, _line("segrobust checkpoint convert", path, target) + flags))
    return steps


def _why(fitting: Sequence[Fit]) -> str:
    best = fitting[0]
    alike = [fit.name for fit in fitting if fit.kind != GIVEN and bool(fit.hint) == bool(best.hint)]
    if names_function(best.name):
        return f"to attack it as {best.name} (--mean and --std, where it was trained with any, belong to it)"
    if best.kind == TORCHVISION:
        return "to attack it: this model in a config beside data of its classes"
    if best.kind == GIVEN or len(alike) == 1:
        return f"to attack it as {best.name}"
    return (f"{len(alike)} models have these keys and shapes ({', '.join(alike)}), and {SHAPES_CANNOT_TELL}: take the "
            "one that the file was published as (`segrobust models NAME` tells of each)")  # fmt: skip


def _evaluate(path: Path, facts: dict[str, Any], fit: Fit, flags: str) -> str:
    if fit.kind == TORCHVISION:
        return fit.name
    command = _line("segrobust evaluate", fit.name, path) + flags
    if names_function(fit.name):
        return f"{command} --data FOLDER --num-classes {len(facts.get('classes', ())) or 'K'}"
    if fit.kind == PUBLISHED_BY_OTHERS or fit.name in PUBLISHED:
        return f"{command} --cfg-options test_dataloader.dataset.data_root=FOLDER"
    return command


def _name_a_model(path: Path, facts: dict[str, Any], flags: str) -> Step:
    command = _line("segrobust checkpoint inspect", path, "--model")
    if OF_MMSEG in facts["parts"]:
        told = facts.get("experiment_name", facts.get("exp_name"))
        trained = f" (its training was called {told})" if told else ""
        return Step(f"no model here takes it; its parts are those of an mmseg model, so name its config{trained}",
                    f"{command} CONFIG.py{flags}")  # fmt: skip
    return Step("no model here takes it; name the config or the function that makes its network",
                f"{command} my_net.py:build{flags}")  # fmt: skip


def _print_fits(fits: Sequence[Fit]) -> None:
    """How many keys of each model match, and what the loader would say of the named ones, or the best, that misfit."""
    if not fits:
        print("no shipped or published model shares a key with it")
        return
    table = Table()
    table.add_column("model", overflow="fold")
    for title in ("fits", "match", "miss", "extra", "shape"):
        table.add_column(title, justify="right", no_wrap=True)
    for fit in fits:
        numbers = map(str, (fit.match, fit.missing, fit.unexpected, fit.other_shape))
        hint = f" ({fit.hint})" if fit.hint else ""
        table.add_row(Text(printable(f"{fit.name}{hint}")), "yes" if fit.fits else "no", *numbers)
    Console().print(table)
    print(COUNTED)
    refused = [fit for fit in fits if fit.kind == GIVEN and not fit.fits]
    if not refused and not any(fit.fits for fit in fits):
        refused = list(fits[:1])
    for fit in refused:
        print(printable(f"{fit.name}: {fit.misfit}"))


def _words(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return _few(f"{key} {count:,}" if name == "parts" else f"{key} {count}" for key, count in value.items())
    if isinstance(value, list):
        count = f"{len(value)}: " if name in ("classes", "not finite") else ""
        return count + _few(map(str, value))
    return f"{value:,}" if isinstance(value, int) and name in ("bytes", "parameters") else str(value)


def _few(words: Iterable[str]) -> str:
    words = list(words)
    more = f", and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more


def printable(text: str) -> str:
    """The text without characters that a terminal would obey: names in a file are anybody's."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _line(*words: object) -> str:
    command, *rest = map(str, words)
    return " ".join([command, *map(shlex.quote, rest)])
