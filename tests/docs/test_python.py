"""Every ```python block of the pages runs, with a small network and two small images as the user's own.

The blocks of a page share their names. What a block of a config says is built: a model, data, hooks, which train.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch

import segrobust
from tests.docs.snippets import BLOCKS, CLASSES, ROOT, blocks, image_folder, network_file

PAGES = sorted({block.page for block in BLOCKS if block.language == "python"})


def quick(*given, **options):
    """``segrobust.evaluate`` with few steps, where a page does not say how many."""
    from segrobust.commands.evaluation import evaluate

    return evaluate(*given, **{"steps": 20, **options})


@pytest.fixture
def own(tmp_path, monkeypatch) -> dict:
    """The names that pages take for granted, in a folder with the files that they name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    network_file(tmp_path)
    image_folder(tmp_path / "ROOT", 2, "test")
    for split in ("train", "val"):
        image_folder(tmp_path / "my_data", CLASSES, split)
    names = [f"class {number}" for number in range(CLASSES)]
    (tmp_path / "my_data" / "classes.json").write_text(json.dumps({"classes": names}))
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, CLASSES, 1))
    torch.save(net.state_dict(), "weights.pth")
    images = torch.rand(2, 3, 16, 24)
    labels = net(images).argmax(1).detach()
    labels[:, 0] = 255
    monkeypatch.setitem(vars(segrobust), "evaluate", quick)
    sys.modules.pop("my_net", None)
    yield {"net": net, "images": images, "labels": labels}
    sys.modules.pop("my_net", None)


def test_there_is_something_to_run():
    assert len([block for block in BLOCKS if block.language == "python"]) >= 19
    assert {"README.md", "start.md", "own_network.md", "train.md", "attacks.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, own, tmp_path):
    for block in blocks(page):
        if block.language == "python" and not block.reason:
            before = dict(own)
            exec(compile(block.text, f"{page}: {block.first}", "exec"), own)  # noqa: S102 - as a user would
            set_here = {name: value for name, value in own.items() if before.get(name) is not value}
            follow(set_here, tmp_path / str(len(own)))
    check(page, SimpleNamespace(**{name: value for name, value in own.items() if name.isidentifier()}))


def follow(names: dict, work_dir) -> None:
    """Build what a block of a config sets."""
    from segrobust.hooks import LoadFromHook
    from segrobust.runs.settings import Settings

    if "custom_imports" in names:
        from mmengine.utils import import_modules_from_strings

        modules = import_modules_from_strings(**names["custom_imports"])
        assert [one.__name__ for one in modules] == names["custom_imports"]["imports"]
    if "studies" in names:
        listed_benchmark(names, work_dir)
    if "train_dataloader" in names:
        trained_whole(names, work_dir)
        return
    if isinstance(names.get("model"), dict) and names["model"].keys() > {"type"}:
        built_model(names["model"])
    if "test_dataloader" in names:
        built_data(names["test_dataloader"])
    if "custom_hooks" in names:
        trained(names, work_dir)
    if "loss_decode" in names:
        from mmengine.registry import MODELS

        assert type(MODELS.build(names["loss_decode"])).__name__ == names["loss_decode"]["type"]
    for hook in ("swa", "stop"):
        if hook in names:
            from mmengine.registry import HOOKS

            HOOKS.build(names[hook])
    if "load_from_except" in names:
        assert LoadFromHook(names["load_from_except"]).leave_out == tuple(names["load_from_except"])
    if "declared" in names:
        assert Settings.of(declared=names["declared"]).declared == names["declared"]


def built_model(config: dict) -> None:
    from segrobust import load_segmenter

    model = load_segmenter({"model": config}, device="cpu", channels_last=False)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64)).shape == (1, config["num_classes"], 64, 64)


def built_data(loader: dict) -> None:
    from mmengine.config import Config

    from segrobust import source_from_config

    source = source_from_config(Config({"test_dataloader": loader}))
    assert len(source) == 2 and source[0].image.shape == (3, 24, 32) and source.num_classes == 2


def trained(names: dict, work_dir) -> None:
    """Two iterations with the hooks, and a validation, which logs what they say."""
    from segrobust.commands.training import train
    from tests.hooks.toys import toy_config, with_plain_validation

    config = with_plain_validation(toy_config(*names["custom_hooks"], attack=None, iters=2))
    config.default_hooks.update(names.get("default_hooks", {}))
    config.model.update(names.get("model", {}))
    if "sampler" in names:
        config.train_dataloader.update(sampler=names["sampler"], batch_size=names["sampler"]["batch_size"])
    runner = train(config, work_dir=work_dir)
    assert type(runner.model).__name__ == config.model.type
    scalars = runner.message_hub.log_scalars
    assert "train/adv_eps" in scalars
    minimum_norm, validated = (word in str(names["custom_hooks"]) for word in ("ALMAProx", "RobustValidationHook"))
    assert not validated or f"val/{'min_norm/median' if minimum_norm else 'robust/mIoU'}" in scalars


def trained_whole(names: dict, work_dir) -> None:
    """Two iterations of the config that a block is, in place of its own number, and its evaluation."""
    from mmengine.config import Config

    from segrobust import load_segmenter
    from segrobust.commands.training import train

    config = Config({name: value for name, value in names.items() if name not in ("data", "pgd", "pipeline")})
    config.train_cfg.update(max_iters=2, val_interval=2)
    config.default_hooks.checkpoint.interval = 2
    runner = train(config, work_dir=work_dir)
    assert {"train/adv_eps", "train/loss_ce", "val/robust/mIoU"} <= set(runner.message_hub.log_scalars)
    made = load_segmenter({"model": names["model"]}, work_dir / "iter_2.pth", device="cpu", channels_last=False)
    assert made.num_classes == names["model"]["num_classes"]


def listed_benchmark(names: dict, work_dir) -> None:
    """Every model under every study."""
    from segrobust.commands.benchmark_cells import Benchmarking, cells_of
    from segrobust.commands.benchmark_file import read_benchmark

    file = work_dir.with_suffix(".json")
    file.write_text(json.dumps({name: names[name] for name in ("name", "models", "studies")}))
    cells = cells_of(read_benchmark(file), Benchmarking.of(file=file))
    assert len(cells) == len(names["models"]) * len(names["studies"])


def check(page: str, own: SimpleNamespace) -> None:
    """What the results of some pages must be."""
    if page == "evaluate.md":
        assert own.run.trust is not None and own.run.folder.is_dir()
        assert {row["name"] for row in own.again.table()} == {"clean", "CosPGD", "SegPGD", "worst_case"}
        assert [row["eps"] for row in own.worst] == [1 / 255, 4 / 255]
    if page == "attacks.md":
        assert own.result.pixel_error.shape == (2,) and (own.result.distance <= 4 / 255 + 1e-6).all()
        assert own.smallest.found.shape == (2,) and (own.smallest.pixel_error > 0.9).all()
    if page in ("own_network.md", "README.md"):
        assert own.run.table()[0]["name"] == "clean" and len(own.run.worst_case) == 2
