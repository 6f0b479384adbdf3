"""Published checkpoints on the command line: listed, asked for their file, and attacked on the official layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segrobust.cli import main
from segrobust.commands.data import majority_of_config, source_from_config
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.published import PUBLISHED
from segrobust.models.shipped import zoo
from tests.models.papers.manifests import write_as_published
from tests.models.papers.stirred import stirred

LAYOUTS = {  # per data set: folders and endings of images and labels, and a list of names
    "VOC 2012": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "ImageSets/Segmentation/{split}.txt", "val", "train"),
    "ADE20K": ("images/{split}/{}.jpg", "annotations/{split}/{}.png", None, "validation", "training"),
    "Cityscapes": ("leftImg8bit/{split}/aachen/{}_leftImg8bit.png", "gtFine/{split}/aachen/{}_gtFine_labelTrainIds.png",
                   None, "val", "train"),
}  # fmt: skip
SIZES = {"VOC 2012": (50, 40), "ADE20K": (50, 40), "Cityscapes": (64, 32)}


def write_archive(root: Path, data: str, ids: np.ndarray) -> Path:
    """Two images of noise per split, with labels of these ids."""
    *patterns, names, test, train = LAYOUTS[data]
    width, height = SIZES[data]
    for split in (test, train):
        for stem in ("a_000000_000001", "b_000000_000002"):
            noise = np.random.default_rng(len(stem)).integers(0, 256, (height, width, 3), dtype=np.uint8)
            label = np.resize(ids, (height, width)).astype(np.uint8)
            for pattern, pixels in zip(patterns, (noise, label), strict=True):
                file = root / pattern.format(stem, split=split)
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
        if names:
            file = root / names.format(split=split)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("a_000000_000001\nb_000000_000002\n")
    return root


def roots(root: Path) -> dict[str, str]:
    return {f"{split}_dataloader.dataset.data_root": str(root) for split in ("train", "val", "test")}


@pytest.mark.parametrize(
    ("name", "ids", "void", "size"),
    [
        ("pirat-upernet-convnext-t-voc", [0, 1, 20, 255], 1, (473, 591)),
        ("ddcat-pspnet50-cityscapes-ddcat", [0, 18, 255, 255], 2, (512, 1024)),
        ("pirat-segmenter-vit-s-ade20k", [0, 1, 150, 7], 0, (512, 640)),
    ],
)
def test_the_data_of_a_name_are_read_in_the_official_layout(name, ids, void, size, tmp_path):
    one = PUBLISHED[name]
    root = write_archive(tmp_path, one.data.name, np.array(ids))
    config = load_config(name, roots(root))
    source = source_from_config(config)
    assert (len(source), source.num_classes, source.ignore_index) == (2, one.data.num_classes, 255)
    sample = source[0]
    assert tuple(sample.label.shape) == size and tuple(sample.image.shape) == (3, *size)
    found = sample.label.unique().tolist()
    assert found == sorted(set(ids))  # as the files have them: ADE20K's 0 is a class
    assert (sample.label == 255).float().mean().item() == pytest.approx(void / 4, abs=0.02)
    assert sorted(np.unique(source.original_label(1))) == sorted(set(ids))
    assert set(majority_of_config(config, source).unique().tolist()) <= set(ids)
    assert len(source_from_config(config, "val")) == 2


def test_data_that_are_not_there_are_told_in_one_line(tmp_path, capsys):
    torch.save({}, tmp_path / "x.pth")
    where = f"test_dataloader.dataset.data_root={tmp_path}/nowhere"
    words = ["evaluate", "pirat-upernet-convnext-t-voc", str(tmp_path / "x.pth"), "--cfg-options", where]
    assert main([*words, "--work-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip()
    assert "nowhere" in said and said.count("\n") == 0


@pytest.mark.parametrize("name", ["pirat-segmenter-vit-s-ade20k", "ddcat-deeplabv3-50-voc-ddcat"])
def test_a_published_name_is_attacked_with_the_users_file(name, tmp_path, capsys):
    one, torch_file = PUBLISHED[name], tmp_path / "mine.pth"
    net = stirred(load_segmenter(name, device="cpu").net)
    write_as_published(name, net.state_dict(), torch_file)
    root = write_archive(tmp_path / "archive", one.data.name, np.array([0, 1, 2, 3]))
    options = [f"test_dataloader.dataset.data_root={root}", "test_dataloader.dataset.pipeline.2.scale=(100,40)"]
    folder = tmp_path / "run"
    words = ["evaluate", name, str(torch_file), "--cfg-options", *options, "--work-dir", str(folder), "--no-checks"]
    assert main([*words, "--attack", "cepgd", "--steps", "1", "--eps", "8/255", "--no-pictures"]) == 0
    run = json.loads((folder / "run.json").read_text())["identity"]
    assert (run["model"], run["config"], run["checkpoint"]) == (name, name, "mine.pth")
    assert {record["name"] for record in json.loads((folder / "summary.json").read_text())} >= {"clean", "CEPGD"}
    assert name in capsys.readouterr().out


def test_without_a_file_it_is_asked_for(capsys):
    for name, words in (("pirat-upernet-convnext-s-voc", "UperNet_ConvNext_S_VOC.pth"), ("pirat-pspnet50-voc", "none")):
        assert main(["evaluate", name]) == 2
        said = capsys.readouterr().err
        assert f"{name}: its weights are not part of segrobust" in said and words in said
    shipped = next(iter(zoo()))
    assert main(["evaluate", shipped, "--surrogate", "pirat-pspnet50-voc"]) == 2
    assert "give a --surrogate-checkpoint: your own copy" in capsys.readouterr().err


def test_a_slip_of_the_pen_is_told_and_training_refused(capsys):
    assert main(["evaluate", "pirat-upernet-convnext-t-vok", "x.pth"]) == 2
    assert main(["evaluate", "pirat-upernet-convnext-t-vok"]) == 2
    assert "did you mean the published model pirat-upernet-convnext-t-voc" in capsys.readouterr().err
    assert main(["train", "pirat-upernet-convnext-t-voc"]) == 2
    assert "cannot be trained" in capsys.readouterr().err


def test_models_lists_what_the_authors_report_as_published(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[1]: line for line in out.splitlines() if len(line.split()) > 1}
    assert PUBLISHED.keys() <= lines.keys() and zoo().keys() <= lines.keys()
    line = lines["pirat-upernet-convnext-t-voc"]
    for words in ("VOC 2012, 21 classes", "60.2 M", "clean 75.2, SEA 4/255 64.9, SEA 8/255 34.6, SEA 12/255 5.5"):
        assert words in line
    broken = lines["ddcat-pspnet50-voc-ddcat"]
    assert "BIM-6 0.03 33.8" in broken and "SEA 8/255 0.0" in broken and "train_epoch_50.pth" in broken
    for words in ("bring your own FILE", "not reproduced", "licence: none stated", "void counts as background",
                  "github.com/nmndeep/Robust-Segmentation", "files: a bare state dict",
                  "files: weights in 'state_dict', each name after 'module.'"):  # fmt: skip
        assert words in out
