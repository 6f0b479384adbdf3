"""What people have in Python: raw networks, pairs in many forms, folders; results in memory, told at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from segrobust import evaluate
from segrobust.core.errors import UserError
from segrobust.datasets.source import Sample
from segrobust.models.segmenter import Segmenter
from segrobust.runs.folder import RunFolder
from tests.attacks.toys import SmallNet
from tests.runs.toy_run import K, lines

QUICK = {"attacks": "CEPGD", "eps": "8/255", "steps": 2, "checks": False, "pictures": False, "batch_size": 2}


@pytest.fixture(scope="module")
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Five images of 8 bits, as floats, and their labels with some void."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 12, 16), generator=generator).float() / 255
    labels = torch.randint(0, K, (5, 12, 16), generator=generator)
    labels[:, 0] = 255
    return images, labels


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return Segmenter.wrap(SmallNet(K), num_classes=K, name="toy").eval()


class Images(Dataset):
    """As torchvision's segmentation data sets are: PIL images, the label with a palette."""

    def __init__(self, images, labels) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        label = Image.fromarray(self.labels[index].numpy().astype(np.uint8), mode="P")
        label.putpalette([7] * 768)
        return Image.fromarray((255 * self.images[index]).round().byte().permute(1, 2, 0).numpy()), label


class Stream(IterableDataset):
    """Pairs without places."""

    def __init__(self, images, labels) -> None:
        self.pairs = list(zip(images, labels, strict=True))

    def __iter__(self):
        return iter(self.pairs)


def stacked(items: list) -> list[torch.Tensor]:
    return [torch.stack(part) for part in zip(*items, strict=True)]


FORMS = {
    "two tensors": lambda x, y: (x, y),
    "two arrays": lambda x, y: (x.numpy(), y.numpy().astype(np.uint8)),
    "8 bits": lambda x, y: ((255 * x).round().byte(), y),
    "8 bits, channels last": lambda x, y: ((255 * x).round().byte().permute(0, 2, 3, 1).numpy(), y.numpy()),
    "labels with a channel": lambda x, y: (x, y[:, None]),
    "a list of pairs": lambda x, y: list(zip(x, y, strict=True)),
    "a list of lists": lambda x, y: [[image.numpy(), label.numpy()] for image, label in zip(x, y, strict=True)],
    "a TensorDataset": TensorDataset,
    "a Subset": lambda x, y: Subset(TensorDataset(torch.cat((x, x)), torch.cat((y, y))), range(5)),
    "a DataLoader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=2),
    "a DataLoader that makes its batches": lambda x, y: DataLoader(
        TensorDataset(x, y), batch_size=2, collate_fn=stacked
    ),
    "a DataLoader of dicts made pairs": lambda x, y: DataLoader(
        [{"x": image, "y": label} for image, label in zip(x, y, strict=True)], batch_size=2,
        collate_fn=lambda items: ([item["x"] for item in items], [item["y"] for item in items]),
    ),
    "a DataLoader that takes some": lambda x, y: DataLoader(
        TensorDataset(torch.cat((x.flip(0), x)), torch.cat((y.flip(0), y))), sampler=[4, 3, 2, 8, 9]
    ),
    "a DataLoader that takes some in batches": lambda x, y: DataLoader(
        TensorDataset(torch.cat((x.flip(0), x)), torch.cat((y.flip(0), y))), batch_sampler=[[4, 3, 2], [8, 9]]
    ),
    "a DataLoader that leaves the last out": lambda x, y: DataLoader(
        TensorDataset(torch.cat((x, x[:1])), torch.cat((y, y[:1]))), batch_size=5, drop_last=True
    ),
    "a stream": lambda x, y: DataLoader(Stream(x, y), batch_size=3),
    "PIL images": Images,
}  # fmt: skip


@pytest.fixture(scope="module")
def expected(model, pairs, tmp_path_factory) -> list[bytes]:
    class Made:
        num_classes, class_names, palette, ignore_index = K, model.class_names, model.palette, 255

        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Sample:
            return Sample(pairs[0][index], pairs[1][index], f"{index:05d}")

    folder = tmp_path_factory.mktemp("expected") / "run"
    evaluate(model, Made(), work_dir=folder, **QUICK)
    return lines(folder)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_pairs_gives_the_rows_of_a_source(form, model, pairs, expected, tmp_path):
    evaluate(model, FORMS[form](*pairs), work_dir=tmp_path / "run", **QUICK)
    assert lines(tmp_path / "run") == expected and len(expected) == 5 * 2


def test_two_images_and_two_labels_are_two_pairs_and_so_are_two_pairs(model, pairs, tmp_path):
    images, labels = (part[:2] for part in pairs)
    evaluate(model, [images, labels], work_dir=tmp_path / "stacks", **QUICK)
    evaluate(model, ((images[0], labels[0]), (images[1], labels[1])), work_dir=tmp_path / "pairs", **QUICK)
    assert lines(tmp_path / "stacks") == lines(tmp_path / "pairs") and len(lines(tmp_path / "pairs")) == 4


WRONG = {
    "other lengths": (lambda x, y: (x, y[:4]), "dataset: 5 images, but 4 labels"),
    "it shuffles": (
        lambda x, y: DataLoader(TensorDataset(x, y), shuffle=True),
        r"draws its images .*\(RandomSampler\).*make it with shuffle=False",
    ),
    "images alone": (lambda x, y: DataLoader(TensorDataset(x)), "expected a loader of pairs .*got 1 things"),
    "one that is no pair": (
        lambda x, y: [(x[0], y[0]), x[1]],
        r"dataset\[1\]: expected a pair .*, got a T",
    ),
    "a picture as label": (lambda x, y: (x, x), r"label of dataset\[0\]: expected class ids \[H, W\]"),
    "ids of no class": (lambda x, y: (x, y + K), "holds the id 259 .*expected 0..3 or 255"),
    "0 to 255 in floats": (lambda x, y: (255 * x, y), r"image of dataset\[0\]"),
    "a folder that is not there": (lambda x, y: "no/such/folder", "no such folder of data: 'no/such/folder'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_data_is_told_in_one_line(case, model, pairs, tmp_path):
    make, words = WRONG[case]
    with pytest.raises(UserError, match=words) as refusal:
        evaluate(model, make(*pairs), work_dir=tmp_path / "run", **QUICK)
    assert "\n" not in str(refusal.value)


def test_a_raw_network_is_what_wrap_makes_of_it(pairs, tmp_path):
    net, options = SmallNet(K).train(), {"mean": (0.2, 0.3, 0.4), "std": (0.5, 0.5, 0.6), "channel_order": "bgr"}
    evaluate(net, pairs, work_dir=tmp_path / "raw", num_classes=K, threshold=None, **options, **QUICK)
    evaluate(Segmenter.wrap(net, num_classes=K, **options), pairs, work_dir=tmp_path / "wrapped", **QUICK)
    assert lines(tmp_path / "raw") == lines(tmp_path / "wrapped") and all(part.training for part in net.modules())
    evaluate(net.eval(), pairs, work_dir=tmp_path / "eval", num_classes=K, **options, **QUICK)
    assert lines(tmp_path / "raw") == lines(tmp_path / "eval")
    with pytest.raises(UserError, match=r"got SmallNet; .*give evaluate num_classes=\.\.\. beside"):
        evaluate(net, pairs, **options, **QUICK)
    with pytest.raises(UserError, match="mean: the model is a Segmenter and has its own; leave it out"):
        evaluate(Segmenter.wrap(net, num_classes=K), pairs, mean=(0.1, 0.1, 0.1), **QUICK)
    with pytest.raises(UserError, match="input_range: expected 1 or 255"):
        evaluate(net, pairs, num_classes=K, input_range=100, **QUICK)


def test_a_folder_has_the_classes_of_the_model_unless_it_names_its_own(model, pairs, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for index, (image, label) in enumerate(Images(*pairs)[i] for i in range(5)):
        image.save(tmp_path / "data" / "images" / f"{index}.png")
        label.save(tmp_path / "data" / "labels" / f"{index}.png")
    run = evaluate(model, tmp_path / "data", work_dir=tmp_path / "run", **QUICK)
    assert run[0]["images"] == 5 and run.table() == evaluate(model, pairs, **QUICK).table()
    (tmp_path / "data" / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    with pytest.raises(UserError, match=f"the model has {K} classes, the data set 3"):
        evaluate(model, str(tmp_path / "data"), work_dir=tmp_path / "other", **QUICK)


def test_results_in_memory_are_those_of_a_folder_and_leave_nothing(model, pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    kept = evaluate(model, pairs, work_dir=tmp_path / "run", quiet=True, **QUICK)
    assert capsys.readouterr().out == ""
    run = evaluate(model, pairs, **QUICK)
    assert not list((tmp_path / "temporary").iterdir())
    assert (run.folder, kept.folder) == (None, tmp_path / "run")
    columns = ["study", "name", "norm", "eps", "severity", "images", "aAcc", "mAcc", "mIoU", "mIoU_greedy"]
    assert run.table() == kept.table() and [list(row) for row in run.table()] == [columns] * 3
    assert [row["name"] for row in run.table()] == ["clean", "CEPGD", "worst_case"]
    stored = RunFolder(tmp_path / "run").read_json("summary.json")
    assert kept == stored and run.table()[1]["aAcc"] == stored[1]["aAcc"]
    (worst,) = run.worst_case
    assert worst["eps"] == pytest.approx(8 / 255) and worst["aAcc"] == stored[2]["aAcc"] < stored[0]["aAcc"]
    out = capsys.readouterr().out
    assert "toy: clean" in out and "worst_case" in out.replace(" ", "_") and "report:" not in out


def test_the_verdict_is_told_and_returned(model, pairs, tmp_path, capsys):
    run = evaluate(model, pairs, "FGSM", "8/255", batch_size=2)
    out = capsys.readouterr().out
    assert run.trust is not None and f"trust: {run.trust.level}" in out and "trust check" in out
    assert evaluate(model, pairs, quiet=True, **QUICK).trust is None


def test_minimum_norm_attacks_have_columns_of_their_own(model, pairs):
    run = evaluate(model, pairs, "FMN", "8/255", steps=5, checks=False, quiet=True)
    found = [row for row in run.table() if row["eps"] is None and row["name"] == "FMN"]
    assert len(found) == 1 and found[0]["found"] is not None and all("median_distance" in row for row in run.table())


def test_what_needs_a_folder_says_so(model, pairs, monkeypatch):
    with pytest.raises(UserError, match="save_adversarial: needs a work_dir to save to"):
        evaluate(model, pairs, save_adversarial=True, **QUICK)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="work_dir: several processes need one"):
        evaluate(model, pairs, **QUICK)
