"""``segrobust leaderboard`` on a real run of a tiny network: added, lowered by images that are measured, verified."""

import json

import numpy as np
import pytest

from segrobust.cli import main
from segrobust.commands.claims import claimed, told_of
from segrobust.core.errors import UserError
from segrobust.leaderboard import Board
from tests.commands.conftest import finished as finished
from tests.commands.conftest import world as world


def lead(action, board, *words):
    return main(["leaderboard", action, "--board", str(board), *map(str, words)])


def test_from_a_run_to_a_lower_entry_and_back_to_its_proof(world, tmp_path, capsys):
    folder, weak, sent = tmp_path / "board", tmp_path / "weak", tmp_path / "sent"
    assert main(world.evaluate(weak, "--steps", "1", "--eps", "128/255", "--no-pictures")) == 0
    assert lead("add", folder, weak, "--claimed", "128/255=50,60") == 0
    board = Board(folder)
    (entry,) = board.entries()
    assert entry["robust"][0]["claimed"]["aAcc"] == 60.0
    assert main(world.evaluate(sent, "--steps", "30", "--eps", "128/255", "--save-adversarial")) == 0
    model = ("--model", world.config, world.weights)
    assert lead("add", folder, "--for", entry["id"], "--rows", sent) == 0
    assert "NOT counted" in capsys.readouterr().out
    assert board.entry(entry["id"])["robust"][0]["best_known"] == entry["robust"][0]["best_known"]
    assert lead("add", folder, "--for", entry["id"], "--images", sent / "adversarial", *model) == 0
    lowered = board.entry(entry["id"])["robust"][0]
    assert lowered["lowered_by"] == 2
    assert lowered["best_known"]["mIoU"] < lowered["measured"]["mIoU"]
    assert lead("add", folder, "--for", entry["id"], "--images", sent / "adversarial", *model) == 1  # nothing more
    assert lead("build", folder) == 0
    assert lead("verify", folder) == 0
    capsys.readouterr()
    assert lead("verify", folder, entry["id"], "--strict", "--json", *model) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and found["found"][entry["id"]]["measured"] == 4 + 4
    assert len(found["found"][entry["id"]]["not_done"]) == 2
    assert lead("verify", folder, "--strict") == 1  # without the model nothing was looked at
    assert "not shipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda image: image + 0.5, "in [0, 1]"),
        (lambda image: 1 - image, "is it made of that image?"),
        (lambda image: image[:, :-1], "expected float [3, 32, 48]"),
        (lambda image: (255 * image).astype(np.uint8), "expected float [3, 32, 48]"),
        (lambda image: image * np.float32("nan"), "in [0, 1]"),
    ],
)
def test_images_that_break_the_rules_are_refused(world, finished, tmp_path, capsys, change, told):
    folder = tmp_path / "board"
    lead("add", folder, finished)
    (entry,) = Board(folder).entries()
    from segrobust.commands.data import source_from_config

    image = source_from_config(world.config)[0].image.numpy()
    np.save(tmp_path / "000000.npy", change(image))
    words = ("--for", entry["id"], "--images", tmp_path, "--model", world.config, world.weights)
    capsys.readouterr()
    assert lead("add", folder, *words) == 2
    assert told in capsys.readouterr().err
    assert Board(folder).entry(entry["id"]) == entry


def test_claims_are_read_from_words_files_and_what_is_published(tmp_path):
    file = tmp_path / "claims.json"
    file.write_text('{"clean": 75.2, "4/255": {"mIoU": 64.9, "aAcc": 88.6}}')
    assert claimed([str(file)])["claimed"] == [{"eps": 4 / 255, "mIoU": 64.9, "aAcc": 88.6, "attack": None}]
    assert claimed(["clean=75.2"])["claimed_clean"] == 75.2
    told = told_of("pirat-upernet-convnext-t-voc", {"paper": "mine"})
    assert told["paper"] == "mine" and told["parameters"] == 60181610
    assert [one["mIoU"] for one in told["claimed"]] == [64.9, 34.6, 5.5]
    for wrong in ("4/255=101", "4/255=x", "much=3", "nothing"):
        with pytest.raises(UserError):
            claimed([wrong])


def test_a_benchmark_gives_its_cells_and_its_words(make_run, tmp_path):
    place = tmp_path / "benchmark"
    place.mkdir()
    run = make_run("benchmark/net/standard")
    cell = {"model": "net", "study": "standard", "folder": "net/standard", "status": "done", "error": None}
    model = {"name": "net", "recipe": "TsallisPGD-AT", "paper": None, "command": "segrobust train x.py"}
    content = {"format": 1, "models": [model], "cells": [cell, {**cell, "status": "failed", "folder": "gone"}]}
    (place / "benchmark.json").write_text(json.dumps(content))
    assert run.is_dir() and lead("add", tmp_path / "board", place) == 0
    (entry,) = Board(tmp_path / "board").entries()
    assert (entry["told"]["training"], entry["told"]["training_command"]) == ("TsallisPGD-AT", "segrobust train x.py")
    (place / "benchmark.json").write_text(json.dumps({**content, "cells": [{**cell, "folder": "../../x"}]}))
    assert lead("add", tmp_path / "board", place) == 2


@pytest.mark.parametrize(
    "words", [(), ("--images", "x"), ("--for", "x"), ("--for", "x", "--rows", "a", "--images", "b")]
)
def test_what_is_to_be_added_must_be_said(tmp_path, words):
    assert lead("add", tmp_path / "board", *words) == 2
