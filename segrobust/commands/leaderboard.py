"""What ``segrobust leaderboard add``, ``verify`` and ``build`` do."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from segrobust.commands.benchmark_state import DONE
from segrobust.commands.benchmark_state import FILE as BENCHMARK
from segrobust.commands.claims import claimed, told_of
from segrobust.commands.inputs import Inputs
from segrobust.commands.network import Network, check_network
from segrobust.commands.parsing import options_from
from segrobust.core.errors import RunFailed, UserError
from segrobust.core.files import read_json
from segrobust.core.own_code import import_own
from segrobust.core.version import __version__
from segrobust.leaderboard.board import Board
from segrobust.leaderboard.entry import Entry
from segrobust.leaderboard.verify import problems_of
from segrobust.models.shipped import zoo
from segrobust.runs.folder import RunFolder


def add_command(options: Namespace) -> None:
    """Add runs, or send what lowers an entry; then the page is to be built."""
    board = Board(options.board)
    if options.entry is not None:
        _submit(board, options)
        return
    if options.images or options.rows or not options.run_dirs:
        what = "--for ENTRY beside --images or --rows" if options.images or options.rows else "a RUN_DIR"
        raise UserError(f"leaderboard add: expected {what}; see segrobust leaderboard add --help")
    given = {name: getattr(options, name) for name in ("paper", "architecture", "parameters", "training")}
    given |= claimed(options.claimed)
    runs = dict(_runs(options.run_dirs))
    told = {path: told_of(str(RunFolder(path).identity().get("config")), given, about) for path, about in runs.items()}
    for name in board.add(list(runs), told):
        _tell(board.entry(name))
    print(f"write the page with: segrobust leaderboard build --board {board.path}")


def _runs(folders: Sequence[Path]) -> Iterator[tuple[Path, Mapping[str, Any] | None]]:
    """Run folders, those of a benchmark with what is said of their models."""
    for folder in folders:
        if not (folder / BENCHMARK).is_file():
            yield folder, None
            continue
        content = read_json(folder / BENCHMARK)
        try:
            models = {one["name"]: one for one in content["models"]}
            done = [(folder / cell["folder"], models[cell["model"]]) for cell in content["cells"]
                    if cell["status"] == DONE]  # fmt: skip
        except (KeyError, TypeError, IndexError):
            raise UserError(f"{folder / BENCHMARK}: not written by this version of segrobust; run it again") from None
        if strange := [path for path, _ in done if not path.resolve().is_relative_to(folder.resolve())]:
            raise UserError(f"{folder / BENCHMARK} names the folder {str(strange[0])!r}, which is not inside it")
        if not done:
            raise UserError(f"{folder}: no cell of the benchmark is done")
        yield from done


def _submit(board: Board, options: Namespace) -> None:
    """Attacked images are measured here and counted; rows without images are kept and not counted."""
    if options.run_dirs or bool(options.images) == bool(options.rows):
        raise UserError("leaderboard add --for ENTRY: expected --rows RUN_DIR or --images PATH after it, one of them")
    entry = board.entry(options.entry)
    about = {
        "by": options.by,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "segrobust": __version__,
    }
    images = options.images or options.rows / "adversarial"
    if options.rows and not (options.model and images.is_dir()):
        submission = board.submit_rows(entry["id"], options.rows, about)
        print(f"{entry['id']}: submission {submission.number} is kept as rows and NOT counted: no number is taken over "
              "unmeasured; send attacked images (evaluate with --save-adversarial) with --model")  # fmt: skip
        return
    if not options.model:
        raise UserError("leaderboard add --images: expected --model CONFIG [CHECKPOINT], on which they are measured")
    from segrobust.commands.remeasure import bench_of, images_in, measure

    base, norm = board.base(entry), entry["threat_model"]["norm"]
    given, inputs, network = images_in(images, base), *_model(options)
    radii = [one["eps"] for one in entry["robust"]]
    measured = measure(bench_of(base, inputs, network), base, given, norm, radii)
    submission = board.submit_images(entry["id"], measured, about)
    if submission is None:
        raise RunFailed(f"{len(measured)} images were measured and lower no score of {entry['id']}; nothing was kept")
    print(f"{entry['id']}: submission {submission.number}, {len(measured)} images re-measured here")
    _tell(board.entry(entry["id"]))
    print(f"write the page with: segrobust leaderboard build --board {board.path}")


def _model(options: Namespace) -> tuple[Inputs, Network]:
    """The model of ``--model CONFIG [CHECKPOINT]`` and the data's options beside it."""
    if len(options.model) > 2:
        raise UserError(f"--model: expected CONFIG [CHECKPOINT], got {' '.join(options.model)}")
    words = dict(zip(("config", "checkpoint"), options.model, strict=False))
    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(Inputs) if hasattr(options, f.name)}
    inputs, network = Inputs(**{**given, **words}), options_from(Network, options)
    check_network(inputs, network)
    import_own(inputs.imports)
    return inputs, network


def _tell(entry: Entry) -> None:
    scores = ", ".join(f"{one['best_known']['mIoU']:.2f} at {one['radius']}" for one in entry["robust"])
    rank = f"not ranked: {entry['not_ranked']}" if entry["not_ranked"] else entry["division"]
    print(f"{entry['id']}: clean mIoU {entry['clean']['mIoU']:.2f}, best known {scores}; {rank}")


def build_command(options: Namespace) -> None:
    """Write ``leaderboard.json`` and the page."""
    print(Board(options.board).build())


def verify_command(options: Namespace) -> int:
    """Tell what is wrong; exit status 1 where anything is."""
    board = Board(options.board)
    found = {name: {"problems": problems} for name, problems in problems_of(board).items()}
    if options.model and not options.strict:
        raise UserError("--model is what --strict measures with; add --strict")
    for name in options.entries:
        board.entry(name)
    for name, one in found.items() if options.strict else ():
        chosen = name in options.entries if options.entries else name != "leaderboard"
        if chosen and not one["problems"]:
            found[name] = _measured(board, board.entry(name), options)
    problems = sum(len(one["problems"]) for one in found.values())
    if options.json:
        print(json.dumps({"ok": not problems, "strict": options.strict, "found": found}, indent=1))
        return int(problems > 0)
    for name, one in found.items():
        told = f", {one['measured']} images measured again" if "measured" in one else ""
        print(f"{name}: {'wrong' if one['problems'] else 'ok'}{told}")
        print("".join(f"  {text}\n" for text in one["problems"]), end="")
        print("".join(f"  not done: {text}\n" for text in one.get("not_done", ())), end="")
    print(f"{problems} problem{'s' * (problems != 1)}")
    return int(problems > 0)


def _measured(board: Board, entry: Entry, options: Namespace) -> dict[str, Any]:
    """What measuring again finds; without the model that is a problem, as nothing was looked at."""
    from segrobust.commands.strict import measured_again

    model = entry["model"]["config"]
    if not options.model and model not in zoo():
        text = (
            f"not measured again: {model!r} is not shipped; verify {entry['id']} --strict --model CONFIG [CHECKPOINT]"
        )
        return {"problems": [text], "not_done": [], "measured": 0}
    named = Namespace(**{**vars(options), "model": options.model or [model]})
    if entry["data"]["protocol"] and not hasattr(named, "protocol"):
        named.protocol = entry["data"]["protocol"]
    try:
        return dataclasses.asdict(measured_again(board, entry, *_model(named)))
    except UserError as error:
        return {"problems": [f"not measured again: {error}"], "not_done": [], "measured": 0}
