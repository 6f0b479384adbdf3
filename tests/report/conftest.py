"""A small finished run with made-up numbers, whose every text can be chosen."""

import hashlib
import json

import pytest
import torch

from segrobust.analysis.summary import summarise
from segrobust.core.rows import Condition, Row
from segrobust.report.pictures import write_grid
from segrobust.runs.folder import RunFolder
from tests.report.trainings import CONFIG

PALETTE = [[128, 64, 128], [0, 0, 142], [220, 20, 60]]


def row(image, condition, right, **more):
    """An image of 2000 pixels that are road or car; of the first ``right`` are right, of the second nearly all."""
    counts = {"classes": [0, 1], "tp": [right, 500], "fp": [10, 1000 - right], "fn": [1000 - right, 10]}
    passes = {"forwards": 101, "backwards": 100} if condition.eps else {"forwards": 1, "backwards": 0}
    return Row(image, condition, counts, {**passes, "distance": condition.eps or 0.0, **more})


def rows(conditions, attacks, strength=1.0, images=4):
    for one in conditions:
        harm = 0 if one.eps is None else 100 * strength * one.eps * (1 + attacks.index(one.name))
        for image in range(images):
            yield row(image, one, round((900 - 10 * image) / (1 + harm)))


def image_entries(name="x.png", images=4):
    return [{"name": name, "sha256": hashlib.sha256(f"{name} {n}".encode()).hexdigest()} for n in range(images)]


def grid_entry(text, rule="worst", side=12):
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(3, side, side + 4, generator=generator)
    label, before, after = (torch.randint(3, (side, side + 4), generator=generator) for _ in range(3))
    label[:2] = 255
    return {
        "rule": rule, "image_id": 3, "name": text, "attack": text, "eps": 4 / 255, "image": image,
        "adversarial": image + 2 / 255, "label": label, "before": before, "after": after,
    }  # fmt: skip


def summarised(folder):
    folder.write_json("summary.json", summarise(folder.complete_rows(), 3, folder.timings(), samples=50))
    return folder.path


def extended(path, made, conditions=None):
    """More rows in the folder of a run, as a later start would add them."""
    folder = RunFolder(path)
    conditions = list({one.condition: None for one in made}) if conditions is None else conditions
    folder.open(folder.read_json("run.json")["identity"], conditions, folder.images().entries)
    with folder.writer() as writer:
        writer.append(made)
    return summarised(folder)


@pytest.fixture
def make_run(tmp_path):
    def make(
        name="mine", text=None, attacks=("CEPGD", "TsallisPGD"), radii=(1 / 255, 4 / 255), norm="Linf",
        surrogate=None, **more,
    ):  # fmt: skip
        def said(default):
            return default if text is None else text

        folder = RunFolder(tmp_path / name)
        attacks = [said(attack) + (str(i) if text else "") for i, attack in enumerate(attacks)]
        identity = {
            "model": said("small net"),
            "config": said("net_camvid.py"),
            "checkpoint": said("net.safetensors"),
            "checkpoint_sha256": said("9f3c" * 16),
            "dataset": said("CamVid"),
            "class_names": [said("road"), said("car"), said("person")],
            "palette": PALETTE,
        }
        about = {
            "date": said("2026-11-24T00:12:05+00:00"),
            "versions": {"torch": said("2.14")},
            "options": ["evaluate", said("net_camvid.py"), "--attack", said("cepgd(steps=100)")],
            said("note"): said("hi"),
        }
        conditions = [Condition("clean", "clean")]
        for attack in attacks:
            fields = {"type": attack, "steps": 100, said("scope"): said("stage")}
            given = {"surrogate": surrogate, "control": attack == "UniformNoise", "fields": fields}
            conditions += [Condition("attack", attack, norm, eps, **given) for eps in radii]
        folder.open({**identity, **more}, conditions, image_entries(said("x.png")), about=about)
        made = list(rows(conditions, attacks, strength=3.0 if name == "standard" else 1.0))
        with folder.writer() as writer:
            writer.append(made, [0.25] * len(made))
        write_grid(folder.path / "images", [grid_entry(said("0001.png"), said("worst"))], PALETTE)
        return summarised(folder)

    return make


@pytest.fixture
def make_training(tmp_path):
    """Writes a folder as a training leaves it."""

    def make(*lines, name="mine", start="20261127_010000", log="", config=CONFIG, checkpoints=(), end=""):
        folder = tmp_path / name
        data = folder / start / "vis_data"
        data.mkdir(parents=True)
        text = "".join(f"{json.dumps(line)}\n" for line in lines) + end
        (data / "scalars.json").write_text(text)
        (folder / start / f"{start}.log").write_text(log)
        (data / "config.py").write_text(config)
        (folder / "net_camvid.py").write_text(config)
        for checkpoint in checkpoints:
            (folder / checkpoint).touch()
        return folder

    return make
