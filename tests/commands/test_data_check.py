"""``segrobust data check`` on miniature official trees: what it tells, what one attack step sees, what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrobust import evaluate
from segrobust.cli import main
from segrobust.commands.tallies import class_counts, tally_of, with_class_counts
from segrobust.core.errors import UserError
from segrobust.datasets.inventory import take_inventory
from segrobust.datasets.layouts import LAYOUTS, PLAIN
from segrobust.datasets.stored_ids import class_pixels, void_pixels
from segrobust.models.mm import import_mmseg, load_config
from segrobust.models.segmenter import Segmenter
from segrobust.runs.folder import RunFolder
from tests.attacks.toys import SmallNet
from tests.datasets.archives import TREES, Tree, save

SIZE = (48, 64)
QUICK = {"steps": 1, "checks": False, "pictures": False, "batch_size": 2, "quiet": True}
BASES = {"cityscapes": "cityscapes", "cityscapes_train_ids": "cityscapes", "voc": "pascal_voc12",
         "voc_augmented": "pascal_voc12_aug", "ade20k": "ade20k"}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGROBUST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module", params=TREES)
def tree(request, tmp_path_factory) -> Tree:
    return TREES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def check(capfd):
    """Run the command: its exit status, what it told, and the line of its error ("" where there is none)."""

    def run(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(["data", "check", *map(str, arguments)])
        told = capfd.readouterr()
        errors = [line for line in told.err.splitlines() if line.startswith("segrobust: ")]
        assert len(errors) == (status != 0) and "Traceback" not in told.err
        return status, told.out, "".join(errors)

    return run


def parts(tree: Tree) -> dict[str, dict]:
    from segrobust.commands.data_check import _of_folder

    import_mmseg()
    return _of_folder(tree.root)


def test_the_check_of_a_whole_tree(tree, check):
    status, told, error = check(tree.root)
    assert (status, error) == (0, "")
    for use, labels in tree.truth.items():
        assert f"\n{use}: " in f"\n{told}" and f"  {len(labels)} images, {len(labels)} with a label" in told
        void = 100 * (labels == 255).mean()
        assert f"  void: {void:.2f} % of the pixels" in told
    assert f"({tree.kind})" in told or f": {tree.kind}, " in told
    assert (
        f"sizes (height x width) of {len(tree.truth['val'])} labels read: 48x64 in {len(tree.truth['val'])}\n" in told
    )
    assert f"class_counts={tree.counts('train')}" in told


def test_ids_become_the_classes_that_were_written(tree):
    found = parts(tree)
    assert set(found) == set(tree.truth)
    for use, settings in found.items():
        data = take_inventory(settings)
        tally = tally_of(data, use, images=True)
        assert data.kind == tree.kind and not data.missing + data.absent + data.unlabelled + data.orphans
        assert class_pixels(tally, data) == tree.counts(use)
        assert void_pixels(tally, data) == (tree.truth[use] == 255).sum()


def test_one_attack_step_sees_those_classes(tree, tmp_path):
    """The pixels of each class, as the rows of the clean images have them."""
    model = Segmenter.wrap(SmallNet(tree.num_classes), num_classes=tree.num_classes).eval()
    results = evaluate(model, str(tree.root), "CEPGD", "4/255", work_dir=tmp_path / "run", **QUICK)
    assert [one["name"] for one in results][:2] == ["clean", "CEPGD"]
    files = (tmp_path / "run/rows").glob("*.jsonl")
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    clean = [row for row in rows if row["condition"].startswith("clean") and "counts" in row]
    measured = "test" if "test" in tree.truth else "val"
    assert len(clean) == len(tree.truth[measured])
    pixels = np.zeros(tree.num_classes, int)
    for row in clean:
        pixels[row["counts"]["classes"]] += np.add(row["counts"]["tp"], row["counts"]["fn"])
    assert pixels.tolist() == tree.counts(measured)


@pytest.mark.parametrize("name", BASES)
def test_mmsegs_own_config_on_the_same_tree(name, tmp_path, check):
    tree = TREES[name](tmp_path / "tree")
    root = next(one for one in (tree.root, tree.root / "VOCdevkit/VOC2012", tree.root / "ADEChallengeData2016")
                if any((one / mark).is_dir() for mark in ("gtFine", "JPEGImages", "annotations")))  # fmt: skip
    options = [f"{split}_dataloader.dataset.data_root={root}" for split in ("val", "test", "train")]
    if name == "voc_augmented":
        options[2:] = [f"train_dataloader.dataset.datasets.{number}.data_root={root}" for number in (0, 1)]
    status, told, error = check(f"mmseg::_base_/datasets/{BASES[name]}.py", "--cfg-options", *options)
    if name == "cityscapes":  # as the archive has it, without the trainIds
        assert status == 1 and "take type='CityscapesLabelIdsDataset'" in error
        return
    assert (status, error) == (0, "") and "\nval, test: " in told
    if name == "voc_augmented":  # two data sets in one training
        assert told.count("\ntrain: ") + told.startswith("train: ") == 2
        assert "VOC set: train, with the labels of SegmentationClass;" in told
        assert "VOC set: aug, with the labels of SegmentationClassAug;" in told
        counts = [
            a + b for a, b in zip(tree.counts("train"), TREES["voc"](tmp_path / "two").counts("train"), strict=True)
        ]
        assert f"class_counts={counts}" in told


def test_folders_may_be_links(tmp_path, check):
    root = TREES["cityscapes_train_ids"](tmp_path / "tree").root
    city = root / "leftImg8bit/val/munster"
    city.rename(tmp_path / "elsewhere")
    city.symlink_to(tmp_path / "elsewhere")
    status, told, _ = check(root)
    assert status == 0 and "  3 images, 3 with a label" in told


def test_label_ids_where_train_ids_are_wanted(tmp_path, check):
    root = TREES["cityscapes"](tmp_path / "tree").root
    options = [f"{split}_dataloader.dataset.{key}" for split in ("train", "val", "test")
               for key in (f"data_root={root}", "seg_map_suffix=_gtFine_labelIds.png")]  # fmt: skip
    status, told, error = check("mmseg::_base_/datasets/cityscapes.py", "--cfg-options", *options)
    assert (
        status == 1 and "PROBLEM val, test: label " in told and "type='CityscapesLabelIdsDataset', which reads" in told
    )
    assert "ids that are no class: " in error and "look like Cityscapes' labelIds" in error
    own = [f"{split}_dataloader.dataset.type=CityscapesLabelIdsDataset" for split in ("train", "val", "test")]
    assert check("mmseg::_base_/datasets/cityscapes.py", "--cfg-options", *options, *own)[0] == 0
    few = f"val_dataloader.dataset.metainfo.classes={'road,car'}"
    status, _, error = check("mmseg::_base_/datasets/cityscapes.py", "--cfg-options", *options, *own, few)
    assert status == 2 and "CityscapesLabelIdsDataset has Cityscapes' 19 classes" in error


def test_the_voc_set_is_told_with_what_was_published(check, tmp_path):
    _, told, _ = check(TREES["voc"](tmp_path / "plain").root)
    assert "VOC set: train, with the labels of SegmentationClass; the plain training set" in told
    assert "VOC set: val, with the labels of SegmentationClass\n" in told
    assert "2 images, 2 with a label; 1449 were published as val" in told
    _, told, _ = check(TREES["voc_augmented"](tmp_path / "aug").root)
    assert "VOC set: aug, with the labels of SegmentationClassAug; the augmented" in told
    assert "9118 were published as aug" in told


def test_ade20ks_0_as_void_or_as_a_class(tmp_path, check):
    tree = TREES["ade20k"](tmp_path / "tree")
    root = tree.root / "ADEChallengeData2016"
    _, told, _ = check(tree.root)
    assert re.search(r" 0 │ +- │ void ", told) and re.search(r" 150 │ +149 │ flag ", told)
    options = [f"{split}_dataloader.dataset.{key}" for split in ("train", "val", "test")
               for key in (f"data_root={root}", "type=ADE20K151Dataset")]  # fmt: skip
    status, told, _ = check("mmseg::_base_/datasets/ade20k.py", "--cfg-options", *options)
    assert status == 0 and re.search(r" 0 │ +0 │ other ", told) and re.search(r" 150 │ +150 │ flag ", told)
    stored = [np.asarray(Image.open(file)) for file in sorted((root / "annotations/validation").iterdir())]
    assert void_share(told, "val") == "0.00" and (np.stack(stored) == 0).any()


def void_share(told: str, use: str) -> str:
    return re.search(rf"{use}[^\n]*: .*?void: ([\d.]+) %", told, re.DOTALL)[1]


def test_labels_that_were_reduced_already(tmp_path, check):
    tree = TREES["ade20k"](tmp_path / "tree")
    for file in (tree.root / "ADEChallengeData2016/annotations").rglob("*.png"):
        ids = np.asarray(Image.open(file)).astype(int) - 1
        save(file, np.where((ids < 0) | (ids == 149), 255, ids).astype(np.uint8))
    status, told, _ = check(tree.root)
    assert status == 1 and "PROBLEM val: 255 occurs in the labels and 150 does not: were they reduced already?" in told


SPOILT = {
    "a label without its image": (lambda image, label: image.unlink(), "1 labels have no image: 2.png"),
    "an image without its label": (lambda image, label: label.unlink(), "1 images have no label: 2.png"),
    "an unreadable image": (lambda image, label: image.write_bytes(b"<html>"), "2.png is not a readable image"),
    "an unreadable label": (
        lambda image, label: label.write_bytes(label.read_bytes()[:60]),
        "2.png is not a readable image",
    ),
    "a label in colours": (lambda image, label: save(label, np.zeros((*SIZE, 3), np.uint8)), "2.png has 3 channels"),
    "ids of 16 bits": (
        lambda image, label: save(label, np.full(SIZE, 300, np.uint16)),
        "ids that are no class: 300 (300 in 1 labels",
    ),
    "a dark image of 16 bits": (
        lambda image, label: save(image, np.full(SIZE, 300, np.uint16)),
        "2.png has 16 bits but",
    ),
    "a label of another size": (
        lambda image, label: save(label, np.zeros((3, 5), np.uint8)),
        "2.png is 3x5 (height x width)",
    ),
    "one id too many": (
        lambda image, label: save(label, np.full(SIZE, 4, np.uint8)),
        "is 0 void (reduce_zero_label=True), or 4",
    ),
    "a label that is a folder": (lambda image, label: (label.unlink(), label.mkdir()), "1 images have no label: 2.png"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_wrong_is_told_in_one_line(case, tmp_path, check):
    root = TREES["plain"](tmp_path / "tree").root
    spoil, words = SPOILT[case]
    spoil(root / "images/val/2.png", root / "labels/val/2.png")
    status, told, error = check(root)
    assert status == 1 and words in error and "1 problem in the data, the first: val: " in error
    assert sum(words in line for line in told.splitlines()) == 1


def test_masks_of_0_and_255_and_void_alone(tmp_path, check):
    root = TREES["plain"](tmp_path / "tree").root
    for file in (root / "labels/val").iterdir():
        save(file, np.where(np.arange(64) < 32, 0, 255).astype(np.uint8) * np.ones((48, 1), np.uint8))
    assert "only class 0 (a) and void (255) occur in 3 labels" in check(root)[2]
    for file in (root / "labels/val").iterdir():
        save(file, np.full(SIZE, 255, np.uint8))
    status, told, error = check(root)
    assert status == 1 and "every pixel of all 3 labels is void (255)" in error and "void: 100.00 %" in told


def test_a_folder_that_names_no_classes(tmp_path, check):
    root = TREES["plain"](tmp_path / "tree").root
    (root / "classes.json").unlink()
    status, told, _ = check(root)
    assert status == 0 and "the highest class id is 3; evaluate wants --num-classes 4 or more" in told
    assert "class_counts=[" not in told


def test_fewer_files_may_be_looked_into(tmp_path, check, cache):
    root = TREES["plain"](tmp_path / "tree").root
    (root / "labels/val/2.png").write_bytes(b"")
    status, told, _ = check(root, "--num-images", 1)  # the middle one of three
    assert status == 0 and "of 1 labels read" in told and "3 images, 3 with a label" in told
    assert "class_counts" not in told  # they would be those of a few
    assert not cache.exists()
    assert check(root)[0] == 1


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def made(folder: Path, *inside: str) -> Path:
    for name in inside:
        (folder / name).mkdir(parents=True)
    return folder


REFUSED = {
    "an empty folder": (lambda t: [empty(t / "a")], "images and labels missing, found nothing", "data check --help"),
    "nothing there": (lambda t: [t / "none"], "none: no such config file"),
    "a file as a folder": (lambda t: [(t / "a.png").write_bytes(b"") or t / "a.png"], "expected a config (.py"),
    "archives": (lambda t: [empty(t / "a"), (t / "a/gtFine_trainvaltest.zip").touch()][:1], "unpack gtFine_trainvalte"),
    "SBD": (lambda t: [made(t / "a", "benchmark_RELEASE/dataset/cls")], "SBD's .mat files", "SegmentationClassAug"),
    "SBD's dataset": (lambda t: [made(t / "a", "dataset/cls")], "SBD's .mat files", "aug.txt"),
    "Cambridge": (lambda t: [made(t / "a", "LabeledApproved_full")], "32 colours", "trainannot"),
    "no images": (lambda t: [made(t / "a", "images", "labels")], "it is empty"),
    "options of a folder": (lambda t: [empty(t / "a"), "--cfg-options", "a.b=1"], "--cfg-options changes a config"),
    "none of the data": (lambda t: ["mmseg::_base_/datasets/cityscapes.py", "--cfg-options", "data_root=x"],
                         "none of its data is there; data/cityscapes/leftImg8bit/"),
    "no images to look into": (lambda t: [t, "--num-images", "0"], "--num-images", ">= 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_input_is_refused_in_one_line(case, tmp_path, check, in_tmp):
    arguments, *words = REFUSED[case]
    status, told, error = check(*arguments(tmp_path))
    assert status == 2 and all(word in error for word in words), error
    assert told.count("how it is laid out: Cityscapes: unpack") == (case == "none of the data")


def test_what_is_missing_is_told_with_the_layout(tmp_path, check):
    root = TREES["voc"](tmp_path / "tree").root
    (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    status, told, error = check(root)
    assert status == 1 and error.endswith("ImageSets/Segmentation/val.txt is missing")
    assert "how it is laid out: VOC 2012: unpack VOCtrainval_11-May-2012.tar" in told
    shutil.rmtree(root / "VOCdevkit/VOC2012/JPEGImages")
    assert check(root)[0] == 2


def test_help_shows_every_layout_and_examples(capsys):
    with pytest.raises(SystemExit):
        main(["data", "check", "--help"])
    told = capsys.readouterr().out
    assert "segrobust data check /data/cityscapes" in told
    assert all(layout.text in told for layout in LAYOUTS) and PLAIN in told


def test_labels_are_read_once_while_they_do_not_change(tmp_path, check, monkeypatch, capfd, caplog):
    tree = TREES["plain"](tmp_path / "tree")
    assert check(tree.root)[0] == 0
    from segrobust.commands import tallies

    monkeypatch.setattr(tallies, "count", None)  # nothing is read
    status, told, _ = check(tree.root)
    assert status == 0 and f"class_counts={tree.counts('train')}" in told
    monkeypatch.undo()
    monkeypatch.setenv("SEGROBUST_CACHE", str(tmp_path / "cache"))
    save(tree.root / "labels/train/0.png", np.zeros(SIZE, np.uint8))
    status, told, _ = check(tree.root)
    assert status == 0 and f"class_counts={tree.counts('train')}" not in told
    assert "files have changed since" in caplog.text


def test_class_counts_of_a_split_are_those_of_its_files(tmp_path):
    tree = TREES["plain"](tmp_path / "tree")
    import_mmseg()
    data = {f"{use}_dataloader": {"dataset": settings} for use, settings in parts(tree).items()}
    wrapped = {"dataset": {"type": "ConcatDataset", "datasets": [data[f"{one}_dataloader"]["dataset"] for one in
                                                                 ("train", "val")]}}  # fmt: skip
    assert class_counts(data, "train") == tree.counts("train")
    both = [a + b for a, b in zip(tree.counts("train"), tree.counts("val"), strict=True)]
    assert class_counts({"train_dataloader": wrapped}, "train") == both
    defaults = {"BalancedPGD": {"class_counts": "train", "steps": 3}, "SEA": {"steps": 5}, "Own": {"class_counts": [1]}}
    assert with_class_counts(defaults, data) == {**defaults, "BalancedPGD": {"class_counts": tree.counts("train"),
                                                                            "steps": 3}}  # fmt: skip
    with pytest.raises(UserError, match=r"class_counts 'test': expected a list .* \(train, val\)"):
        class_counts(data, "test")
    (tree.root / "labels/train/0.png").unlink()
    with pytest.raises(UserError, match=r"class_counts 'train': .*0.png has no label; `segrobust data check`"):
        class_counts(data, "train")


def test_class_counts_of_camvid_are_those_of_its_config(camvid):
    config = load_config("configs/fpn/fpn_r18w24_1xb8-std-3k_camvid-180x240.py")
    assert class_counts(config, "train") == config.class_counts


def test_an_evaluation_counts_what_its_config_asks_for(world, tmp_path):
    config = tmp_path / "tiny.py"
    config.write_text(world.config.read_text() + 'attack_defaults = dict(BalancedPGD=dict(class_counts="test"))\n')
    run = tmp_path / "run"
    assert main(world.evaluate(run, "--attack", "balanced-pgd", config=config)) == 0
    labels = np.stack([np.asarray(Image.open(file)) for file in (world.data / "labels/test").iterdir()])
    counts = np.bincount(labels[labels != 255], minlength=3).tolist()
    (fields,) = {json.dumps(dict(one.fields)) for one in RunFolder(run).conditions() if one.name == "BalancedPGD"}
    assert f'"class_counts": {[float(count) for count in counts]}' in fields
