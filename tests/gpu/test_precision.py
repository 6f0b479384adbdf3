"""The precision of gradients is chosen and told; what is reported is true float32 whatever was chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from segrobust.commands.data import source_from_config
from segrobust.models.deterministic import deterministic
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.precision import computing_in
from segrobust.runs.folder import RunFolder
from tests.gpu.runs import identity
from tests.runs.toy_run import lines

CHOICES = {"bf16": ("--amp", "bf16"), "fp16": ("--amp", "fp16"), "tf32": ("--precision", "tf32")}
CHOICES |= {"bf16 by --precision": ("--precision", "bf16")}


@pytest.fixture(scope="module")
def in_float32(scenes, tmp_path_factory):
    return scenes.evaluate(tmp_path_factory.mktemp("float32") / "run", "--save-adversarial", attacks=("tsallis-pgd",))


def by_name(folder):
    """Rows as they are stored, by the name of the condition."""
    names = {one.id: one.name for one in RunFolder(folder).conditions()}
    found: dict[str, list[bytes]] = {}
    for line in lines(folder):
        found.setdefault(names[json.loads(line)["condition"]], []).append(line)
    return found


@pytest.mark.parametrize("choice", CHOICES)
def test_gradients_in_another_precision(in_float32, scenes, tmp_path, device, choice):
    if choice == "tf32" and (device.type == "cpu" or torch.cuda.get_device_capability(device) < (8, 0)):
        pytest.skip("the device has no TF32")
    folder = scenes.evaluate(tmp_path / "run", *CHOICES[choice], "--save-adversarial", attacks=("tsallis-pgd",))
    assert choice.split()[0] in json.dumps(identity(folder))
    rows, plain = by_name(folder), by_name(in_float32)
    assert rows["clean"] == plain["clean"]
    assert rows["TsallisPGD"] != plain["TsallisPGD"]  # the gradients were others


@pytest.mark.parametrize("choice", [None, "bf16"])
def test_what_is_reported_is_a_forward_in_float32(in_float32, scenes, tmp_path, device, choice):
    """The stored images, seen once more in the forms of a run without TF32 or autocast, give every stored number."""
    folder = in_float32
    if choice:
        folder = scenes.evaluate(tmp_path / "run", *CHOICES[choice], "--save-adversarial", attacks=("tsallis-pgd",))
    model = load_segmenter(scenes.config, scenes.weights, device=device)
    source = source_from_config(load_config(scenes.config), "test", None)
    rows = {row.image: row for row in RunFolder(folder).rows() if row.condition.name == "TsallisPGD"}
    files = sorted(folder.glob("adversarial/*/*.npy"))
    assert len(files) == len(source) == len(rows)
    for first in range(0, len(files), 2):  # as in the run: two at a time
        points = torch.from_numpy(np.stack([np.load(file) for file in files[first : first + 2]])).to(device)
        with torch.no_grad(), deterministic(device), computing_in("float32", device):
            predictions = model(points).argmax(1).cpu()
        for image, prediction in enumerate(predictions, first):
            label = source[image].label
            right = int(((prediction == label) & (label != 255)).sum())
            assert sum(rows[image].counts["tp"]) == right


def test_a_run_leaves_torchs_switches_as_they_were(scenes, tmp_path):
    """A library does not decide for the program that calls it."""
    before = switches()
    scenes.evaluate(tmp_path / "run", attacks=("fgsm",))
    assert switches() == before


def switches():
    return (
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_autocast_enabled("cuda"),
        torch.nn.functional.interpolate,
    )
