"""A small finished run with made-up numbers, whose every text can be chosen."""

import pytest
import torch

from segrobust.analysis.summary import summarise
from segrobust.report.pictures import write_grid
from segrobust.runs.folder import RunFolder

PALETTE = [[128, 64, 128], [0, 0, 142], [220, 20, 60]]


def rows(attacks, radii, norm, strength=1.0, images=4):
    jobs = [("clean", None, None)] + [(attack, norm, eps) for attack in attacks for eps in radii]
    for attack, of_norm, eps in jobs:
        for image in range(images):
            right = round(
                (900 - 10 * image) / (1 + 100 * strength * (eps or 0) * (1 + attacks.index(attack) if eps else 0))
            )
            yield {
                "image": image, "name": "x.png", "attack": attack, "norm": of_norm, "eps": eps, "height": 40,
                "width": 50, "classes": [0, 1], "tp": [right, 500], "fp": [10, 1000 - right], "fn": [1000 - right, 10],
                "distance": eps or 0.0, "found": False, "forwards": 101 if eps else 1, "backwards": 100 if eps else 0,
            }  # fmt: skip


def grid_entry(text, rule="worst", side=12):
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(3, side, side + 4, generator=generator)
    label, before, after = (torch.randint(3, (side, side + 4), generator=generator) for _ in range(3))
    label[:2] = 255
    return {
        "rule": rule, "image_id": 3, "name": text, "attack": text, "eps": 4 / 255, "image": image,
        "adversarial": image + 2 / 255, "label": label, "before": before, "after": after,
    }  # fmt: skip


@pytest.fixture
def make_run(tmp_path):
    def make(name="mine", text=None, attacks=("CEPGD", "TsallisPGD"), radii=(1 / 255, 4 / 255), norm="Linf", **more):
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
            "images": 4,
            "attacks": {attack: {"type": attack, "steps": 100, said("scope"): said("stage")} for attack in attacks},
        }
        about = {
            "date": said("2026-11-24T00:12:05+00:00"),
            "versions": {"torch": said("2.14")},
            said("note"): said("hi"),
        }
        folder.open({**identity, **more}, about=about)
        made = list(rows(attacks, radii, norm, strength=3.0 if name == "standard" else 1.0))
        with folder.writer() as writer:
            writer.append(made, [0.25] * len(made))
        folder.write_json("summary.json", summarise(folder.rows(), 3, folder.timings(), samples=50))
        write_grid(folder.path / "images", [grid_entry(said("0001.png"), said("worst"))], PALETTE)
        return folder.path

    return make
