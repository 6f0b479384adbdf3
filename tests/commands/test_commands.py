"""What the commands do: the right call with the right values, lists for people, and exit statuses."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from segrobust.cli import main, one_line
from segrobust.commands import run
from segrobust.commands.inputs import model_name
from segrobust.core.errors import UserError
from segrobust.models.shipped import zoo
from segrobust.runs.folder import RunFolder
from tests.studies.sign_bisection import register

NAME = next(iter(zoo()))
LIGHT = """
import sys
from segrobust.cli import main
status = main({argv!r})
heavy = [name for name in ("torch", "numpy", "mmengine", "matplotlib", "rich") if name in sys.modules]
sys.exit(f"imported {{heavy}}" if heavy else status)
"""


@pytest.mark.parametrize(
    ("name", "option"),
    [("x.csv", "--csv"), ("x.tex", "--latex"), ("x.md", "--markdown"), ("x.pdf", "--figures"), ("x.SVG", "--figures")],
)
def test_a_page_is_not_written_into_another_type_of_file(name, option, tmp_path, capsys):
    assert main(["report", str(tmp_path), "--out", str(tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"ends in .html, got '{tmp_path / name}'; {option} writes that" in line
    assert main(["report", str(tmp_path), "--latex", str(tmp_path / "x.csv")]) == 2
    assert "--latex: expected a name that ends in .tex" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_exports_are_written_in_place_of_the_page(finished, tmp_path, capsys):
    names = {"--csv": "a.csv", "--rows-csv": "r.csv", "--latex": "a.tex", "--markdown": "a.md", "--model-card": "R.md"}
    words = [word for option, name in names.items() for word in (option, str(tmp_path / name))]
    before = (finished / "report.html").stat().st_mtime_ns
    assert main(["report", str(finished), *words]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name for path in written} == {*names.values(), "segrobust.yaml"} and all(map(Path.is_file, written))
    assert (finished / "report.html").stat().st_mtime_ns == before
    assert main(["report", str(finished), "--csv", str(tmp_path / "b.csv"), "--out", str(tmp_path / "b.html")]) == 0
    assert (tmp_path / "b.csv").is_file() and (tmp_path / "b.html").is_file()


@pytest.mark.parametrize("words", [["models", "--json"], ["models"], ["attacks"], ["attacks", "tsallis-pgd"]])
def test_a_reader_who_leaves_sees_no_traceback(words):
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from segrobust.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *words], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_broken_pipe_elsewhere_is_an_error_like_any_other(monkeypatch, capfd):
    def fails(options):
        raise BrokenPipeError("to another process")

    monkeypatch.setattr(run, "models", fails)
    with pytest.raises(BrokenPipeError):
        main(["models"])


REFUSED = {
    "no such config file": ["evaluate", "none.py", "--eps", "1/255"],
    "unknown option '--num-image'": ["evaluate", "none.py", "--num-image", "3"],
    "--corruptions: unknown corruption": ["evaluate", "none.py", "--corruptions", "mist"],
    "--eps: images lie in [0, 1]": ["evaluate", NAME, "--eps", "8"],
    "--eps: images lie in [0, 1], so a Linf": ["evaluate", NAME, "--attack", "ddn(norm=L2)", "fgsm", "--eps", "1.5"],
    "unknown attack 'tsalis-pgd'": ["evaluate", NAME, "--attack", "tsalis-pgd"],
    "unknown field of CEPGD 'stepz'": ["evaluate", NAME, "--attack", "cepgd(stepz=3)"],
    "--attack: expected a text such as": ["evaluate", NAME, "--attack", "cepgd(steps"],
    "--target: unknown target": ["evaluate", NAME, "--target", "majorty"],
    "--import mine.py: no such file": ["evaluate", NAME, "--import", "mine.py"],
    "unknown command 'attaks'": ["attaks"],
    "none: no such config file": ["data", "check", "none"],
    "--num-images: expected a whole number >= 1": ["data", "check", "none", "--num-images", "0"],
}


@pytest.mark.parametrize("told", REFUSED)
def test_wrong_input_is_told_before_anything_heavy_is_imported(told):
    code, started = LIGHT.format(argv=REFUSED[told]), time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert time.monotonic() - started < 5  # 0.15 s; torch alone takes longer on a busy machine


def test_interrupt(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "demo", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "segrobust: interrupted; run the same command again to go on\n"


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    def defect(options):
        raise RuntimeError("ours")

    monkeypatch.setattr(run, "demo", defect)
    with pytest.raises(RuntimeError, match="ours"):
        main(["demo"])


class _Refusing(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UserError("label x.png holds the id 7")


def test_error_in_a_data_worker_is_one_line():
    with pytest.raises(UserError) as caught:
        next(iter(torch.utils.data.DataLoader(_Refusing(), num_workers=1)))
    assert "Traceback" in str(caught.value)
    assert one_line(caught.value) == "label x.png holds the id 7"


def test_attacks_lists_every_attack(capsys, monkeypatch):
    from segrobust.attacks.registry import ATTACKS

    monkeypatch.setenv("COLUMNS", "140")
    assert main(["attacks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, cls in ATTACKS.items():
        (line,) = (line for line in lines if f" {name} " in line)
        assert cls.paper in line
        assert f" {cls().passes()[0]} / {cls().passes()[1]} " in line


def test_models_lists_what_is_shipped(world, tmp_path, capsys, monkeypatch):
    import segrobust.models.shipped
    from segrobust.models.mm import load_config

    config = tmp_path / "tiny-std.json"
    config.write_text(json.dumps(load_config(world.config).to_dict()))
    entry = segrobust.models.shipped.ZooEntry("tiny-std", config, world.weights, "a tiny model, 33.3 mIoU")
    monkeypatch.setattr(segrobust.models.shipped, "zoo", lambda: {"tiny-std": entry})
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    size = f"{world.weights.stat().st_size / 1e6:.1f} MB"
    assert all(word in out for word in ("tiny-std", size, "a tiny model, 33.3 mIoU"))
    assert main(["models", "tiny-std"]) == 0
    out = capsys.readouterr().out
    assert "classes: 3\n" in out and "images: of their own size\n" in out and "scores from" not in out


def test_a_shipped_name_brings_its_weights(world, tmp_path, monkeypatch, capsys):
    import segrobust.models.shipped

    zoo = tmp_path / "zoo"
    zoo.mkdir()
    entry = segrobust.models.shipped.ZooEntry("tiny-1.5", zoo / "tiny-1.5.json", world.weights, "")
    entry.config_path.write_text("{}")
    monkeypatch.setattr(segrobust.models.shipped, "zoo", lambda: {entry.name: entry})
    calls = []
    monkeypatch.setattr("segrobust.commands.evaluate.evaluate_command", lambda inputs, *_: calls.append(inputs))
    for name in ("tiny-1.5", str(entry.config_path)):
        assert main(["evaluate", name]) == 0
    for call in calls:
        assert (model_name(call.config), call.checkpoint) == ("tiny-1.5", None)
        assert call.work_dir == Path("work_dirs/tiny-1.5/evaluation")
    assert main(["evaluate", "tiny-1.4"]) == 2
    assert "did you mean the shipped model tiny-1.5?" in capsys.readouterr().err


def test_evaluate_leaves_its_files(finished, world, capsys):
    names = {path.name for path in finished.iterdir()}
    assert {"run.json", "rows", "summary.json", "report.html", "images"} <= names
    records = json.loads((finished / "summary.json").read_text())
    assert {"clean", "CEPGD", "worst_case"} <= {record["name"] for record in records}
    rows = {path.name: path.read_bytes() for path in (finished / "rows").iterdir()}
    assert main(world.evaluate(finished)) == 0
    assert rows == {path.name: path.read_bytes() for path in (finished / "rows").iterdir()}


def test_rows_of_another_version_are_refused_or_accepted_and_told(world, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    run["identity"]["versions"]["torch"] = run["about"]["versions"]["torch"] = "1.9.0"
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    assert main(world.evaluate(tmp_path / "run")) == 2
    assert 'versions.torch is "1.9.0" there' in capsys.readouterr().err
    for accepted in (("--accept-different", "CODE", "--accept-different", "VERSIONS"), ()):
        assert main(world.evaluate(tmp_path / "run", *accepted)) == 0
        out = capsys.readouterr().out
        assert "with rows of different VERSIONS, accepted on 20" in out and 'versions.torch is "1.9.0" there' in out
    assert main(world.evaluate(finished)) == 0 and "with rows of" not in capsys.readouterr().out
    assert main(["evaluate", "x", "--accept-different", "SEED"]) == 2
    assert "CODE" in capsys.readouterr().err


def test_forms_of_the_model_reach_the_run(world, tmp_path, capsys):
    forms = ("--no-channels-last", "--amp", "fp16", "--batch-size", "auto", "--no-pictures")
    assert main(world.evaluate(tmp_path, *forms)) == 0
    identity = json.loads((tmp_path / "run.json").read_text())["identity"]
    shown = [identity.get(name) for name in ("memory_format", "precision", "batch_size")]
    assert shown == ["contiguous", "fp16", 4]
    assert not (tmp_path / "images").exists()
    out = capsys.readouterr().out
    assert "images/s" in out and "peak memory" not in out  # not known on a CPU
    assert main(world.evaluate(tmp_path, "--batch-size", "auto")) == 2
    error = capsys.readouterr().err
    assert 'precision is "fp16" there and "float32" here' in error
    assert 'memory_format is "contiguous" there and "channels_last" here' in error


def test_norm_fields_and_corruptions_reach_the_run(world, tmp_path):
    words = ("--attack", "cepgd", "fgsm(norm=Linf)", "--norm", "L2", "--eps", "0.5", "--no-pictures")
    assert main(world.evaluate(tmp_path, *words)) == 0
    assert main(world.evaluate(tmp_path, *words, "--corruptions", "fog", "--severity", "2")) == 0  # the run grows
    found = [(one.study, one.name, one.norm, one.severity) for one in RunFolder(tmp_path).conditions()]
    assert found == [("clean", "clean", None, None), ("attack", "CEPGD", "L2", None), ("attack", "FGSM", "Linf", None),
                     ("corruption", "fog", None, 2)]  # fmt: skip


@pytest.fixture
def kinds(world, tmp_path):
    """Files with raw weights, averaged ones, and both."""
    weights = load_file(world.weights)
    other = {key: value * 2 if value.is_floating_point() else value for key, value in weights.items()}
    for name, content in (("raw", weights), ("ema", other), ("both", {"state_dict": weights, "model_ema": other})):
        torch.save(content, tmp_path / f"{name}.pth")
    return {path.stem: path for path in tmp_path.glob("*.pth")}


def identity_in(folder):
    return json.loads((folder / "run.json").read_text())["identity"]


def test_the_kind_of_weights_reaches_the_model_and_the_run(world, kinds, tmp_path, capsys):
    digests = []
    for name, options in (("both", ("--weights", "ema")), ("ema", ()), ("both", ())):
        folder = tmp_path / f"{name}{len(options)}"
        assert main(world.evaluate(folder, "--no-pictures", *options, weights=kinds[name])) == 0
        digests.append(identity_in(folder)["weights_sha256"])
    asked, alone, default = digests
    assert asked == alone != default
    again = world.evaluate(tmp_path / "both2", "--no-pictures", weights=kinds["both"])
    assert main(again) == 2
    assert "weights_sha256 is" in capsys.readouterr().err
    assert main([*again, "--weights", "ema"]) == 0
    default = world.evaluate(tmp_path / "both0", "--no-pictures", weights=kinds["both"])
    assert main([*default, "--weights", "raw"]) == 0  # the same weights, asked for


def test_the_kind_of_weights_is_the_surrogates_too_where_it_has_both(world, kinds, tmp_path):
    digest = {}
    for kind in kinds:
        options = (
            "--no-pictures",
            "--weights",
            "ema",
            "--surrogate",
            world.config,
            "--surrogate-checkpoint",
            kinds[kind],
        )
        assert main(world.evaluate(tmp_path / kind, *options, weights=kinds["both"])) == 0
        attack = next(one for one in RunFolder(tmp_path / kind).conditions() if one.surrogate)
        digest[kind] = attack.fields["surrogate"]["weights_sha256"]
    model = identity_in(tmp_path / "raw")["weights_sha256"]
    assert digest["both"] == digest["ema"] == model != digest["raw"]


def test_a_surrogate_that_was_trained_on_classes_in_another_order_is_refused(world, tmp_path, capsys):
    meta = {"dataset_meta": {"classes": ["bright", "grey", "dark"]}}
    torch.save({"state_dict": load_file(world.weights), "meta": meta}, tmp_path / "reversed.pth")
    options = ("--surrogate", world.config, "--surrogate-checkpoint", tmp_path / "reversed.pth")
    assert main(world.evaluate(tmp_path / "run", *options)) == 2
    assert "are those of the --surrogate checkpoint reversed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def trainable(world, tmp_path):
    """The tiny config with its test labels as training labels."""
    config = tmp_path / "trainable.py"
    config.write_text(world.config.read_text() + "\ntrain_dataloader = test_dataloader\n")
    return config


def test_targets_writes_the_map_of_target_majority(world, trainable, tmp_path, capsys):
    out = tmp_path / "majority.png"
    assert main(["targets", str(trainable), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(tmp_path / "majority-colours.png")]
    ids = np.asarray(Image.open(out))
    assert ids.shape == (32, 48) and (ids[0] == 255).all() and ids[1:].max() < 3  # the first row has no labels
    folder = tmp_path / "run"
    for _ in range(2):  # the second start reads the map that the first one left
        assert main(world.evaluate(folder, "--target", "majority", config=trainable)) == 0
        assert np.array_equal(np.asarray(Image.open(folder / "target.png")), ids)
    records = json.loads((folder / "summary.json").read_text())
    assert all("apsr" in record for record in records)
    assert "Targeted attacks." in (folder / "report.html").read_text()
    assert "at target" in capsys.readouterr().out


def test_evaluate_at_some_pixels_alone(world, trainable, tmp_path, capsys):
    folder, options = tmp_path / "run", ("--where", "class:grey", "--rest", "kept")
    for target in ("majority", "majority"):  # the second start reads the map, which is that of all pixels
        assert main(world.evaluate(folder, "--target", target, *options, config=trainable)) == 0
    assert "aAcc / mIoU / at target / kept in %" in " ".join(capsys.readouterr().out.split())
    assert len(np.unique(np.asarray(Image.open(folder / "target.png")))) > 1
    identity = json.loads((folder / "run.json").read_text())["identity"]
    assert identity["target"]["where"] == "class:grey" and identity["rest"] == "kept"
    page = " ".join((folder / "report.html").read_text().split())
    assert "<b>majority</b>, at the pixels of <b>class:grey</b> alone" in page and "<dt>The rest</dt>" in page
    assert main(world.evaluate(folder, "--target", "majority", config=trainable)) == 2
    assert "target.where" in capsys.readouterr().err


def test_evaluate_with_a_minimum_norm_attack(world, tmp_path, monkeypatch, capsys):
    register(monkeypatch)
    monkeypatch.setenv("COLUMNS", "140")
    folder = tmp_path / "run"
    assert main(world.evaluate(folder, "--attack", "cepgd", "sign-bisection", "--eps", "1/255", "4/255")) == 0
    records = json.loads((folder / "summary.json").read_text())
    assert [(r["name"], r["eps"] is None) for r in records if r["name"] == "SignBisection"] == [
        ("SignBisection", True), ("SignBisection", False), ("SignBisection", False),
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert "minimum norm" in out and out.count("SignBisection") == 3  # scores, distances, cost


def test_report_over_two_runs(finished, tmp_path, capsys):
    out = tmp_path / "both.html"
    assert main(["report", str(finished), str(finished), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert "CEPGD" in out.read_text()


def test_checkpoint_convert_and_inspect(world, tmp_path, capsys):
    weights = load_file(world.weights)
    pickled = tmp_path / "tiny.pth"
    torch.save({"state_dict": weights, "meta": {"epoch": 3}}, pickled)
    assert main(["checkpoint", "convert", str(pickled)]) == 0
    digest = hashlib.sha256((tmp_path / "tiny.safetensors").read_bytes()).hexdigest()
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "tiny.safetensors"), f"sha256: {digest}"]
    converted = load_file(tmp_path / "tiny.safetensors")
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[key], weights[key]) for key in weights)
    assert main(["checkpoint", "inspect", str(pickled)]) == 0
    assert str(len(weights)) in capsys.readouterr().out


def test_checkpoint_convert_to_half_precision(world, tmp_path, capsys):
    out = tmp_path / "half.safetensors"
    assert main(["checkpoint", "convert", str(world.weights), str(out), "--half"]) == 0
    kinds = {value.dtype for value in load_file(out).values() if value.is_floating_point()}
    assert kinds == {torch.float16}


@pytest.mark.parametrize("name", ["train", "evaluate", "report", "benchmark"])
def test_tools_start_the_same_commands(name, repository, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--no-such-option"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(repository / "tools" / f"{name}.py"), run_name="__main__")
    assert left.value.code == 2
    assert f"see segrobust {name} --help" in capsys.readouterr().err
    assert sys.argv[1:] == [name, "--no-such-option"]  # a run keeps the command in these words


@pytest.mark.parametrize("name", ["dist_train.sh", "dist_evaluate.sh"])
def test_scripts_without_arguments_say_how(name, repository):
    done = subprocess.run([repository / "tools" / name], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


@pytest.mark.slow
def test_two_processes_find_the_same_integers(world, finished, repository, tmp_path):
    script = repository / "tools" / "dist_evaluate.sh"
    options = world.evaluate(tmp_path / "two")[3:]
    command = [str(script), str(world.config), str(world.weights), "2", *options]
    settings = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(repository)}
    settings["PORT"] = str(20000 + os.getpid() % 20000)
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "two" / "rows").glob("[0-9r]*.jsonl"))) == 2
    assert _rows(tmp_path / "two") == _rows(finished)


def _rows(work_dir: Path) -> list[str]:
    files = (path for path in (work_dir / "rows").glob("*.jsonl") if not path.name.startswith("timing"))
    return sorted(line for path in files for line in path.read_text().splitlines())


def test_a_run_that_does_not_repeat_says_so_at_the_end(world, tmp_path, monkeypatch, capsys):
    assert main(world.evaluate(tmp_path)) == 0
    assert "repeatable" not in capsys.readouterr().out
    monkeypatch.setattr("segrobust.runs.repeat_probe.not_repeating", lambda *given: ["some_backward"])
    assert main(world.evaluate(tmp_path, "--fresh")) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "repeatable" in line]
    assert told == ["repeatable: no (some_backward): another start of this run gives other numbers"]
