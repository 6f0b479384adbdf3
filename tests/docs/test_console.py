"""Every command on the pages goes through the real argument parsers; lists are printed, nothing heavy is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from unittest import mock

import pytest

from segrobust import cli
from tests.docs.snippets import BLOCKS, ROOT, commands, image_folder, network_file, saved_folders

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROBUST, STANDARD = "camvid-fpn-r18w24-sharppgdat-long-linf4-180x240", "camvid-fpn-r18w24-std-180x240"
CONFIG = str(ROOT / "configs/fpn/fpn_r18w24_1xb8-std-3k_camvid-180x240.py")
STANDS_FOR = {
    "NAME": ROBUST,
    "OTHER": STANDARD,
    "CONFIG": CONFIG,
    "configs/NAME.py": CONFIG,
    "ANOTHER_RUN_DIR": "RUN_DIR",
    "ANOTHER_WORK_DIR": "WORK_DIR",
}
HEAVY = {  # what a command hands its checked options to
    "segrobust.commands.demo.run_demo": None,
    "segrobust.commands.training.train": None,
    "segrobust.commands.evaluate.evaluate_command": None,
    "segrobust.commands.benchmark.benchmark_command": None,
    "segrobust.commands.benchmark.benchmark_dry_run": None,
    "segrobust.commands.evaluate.targets_command": (),
    "segrobust.commands.checkpoints.inspect_command": None,
    "segrobust.commands.checkpoints.convert_command": None,
    "segrobust.commands.data_check.check_data": None,
    "segrobust.report.build_report": None,
    "segrobust.report.export": (),
    "segrobust.report.training_page.build_training_report": None,
    "segrobust.report.training_page.write_training_csv": None,
}
FOLLOWED = ("demo", "train", "evaluate", "benchmark", "targets", "report", "attacks", "models", "checkpoint", "data")
FILES = (
    "weights.pth",
    "UperNet_ConvNext_T_VOC.pth",
    "DIR/UperNet_ConvNext_T_VOC.pth",
    "DIR/UperNet_ConvNext_S_VOC.pth",
    "work_dirs/my_config/iter_400.pth",
    "WORK_DIR/20261127_010000/vis_data/scalars.json",
)
FOLDERS = ("DIR", "SHARED", "RUN_DIR", "VOCdevkit/VOC2012", "cityscapes")
LINES = [(page, " ".join(words), words) for page, words in commands()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the commands name."""
    folder = tmp_path_factory.mktemp("docs")
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "my_config.py").write_text("train_cfg = dict(max_iters=400)\n")
    (folder / "RUN_DIR" / "run.json").write_text("{}")
    network_file(folder)
    image_folder(folder / "FOLDER", 11)
    models = [{"name": "robust", "model": ROBUST}]
    studies = [{"name": name, "attacks": ["FGSM"]} for name in ("attacked", "min-norm")]
    (folder / "my.py").write_text(f"name, models, studies = 'mine', {models}, {studies}\n")
    saved_folders(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))  # a command may add this folder
    monkeypatch.setenv("COLUMNS", "200")
    handed = []
    for name, answer in HEAVY.items():
        monkeypatch.setattr(name, lambda *given, answer=answer, name=name, **named: handed.append(name) or answer)
    yield handed
    sys.modules.pop("my_net", None)


def test_there_are_commands_and_marked_blocks_are_known():
    assert len(LINES) >= 70
    assert {block.language for block in BLOCKS} <= {"console", "python", "text", "bash"}
    marked = {(block.page, block.language): block.reason for block in BLOCKS if block.reason}
    assert marked == {
        ("exports.md", "python"): "pandas is not among the packages of the tests",
        ("gpus.md", "bash"): "there is no slurm here; its last line is parsed",
    }
    assert [block.page for block in BLOCKS if block.language == "bash"] == ["gpus.md"]


def substituted(words: list[str]) -> list[str]:
    saved = {f"{library}:FOLDER": f"{library}:{library}" for library in ("hf", "smp")}
    return [{**STANDS_FOR, **saved}.get(word, word) for word in words]


@pytest.mark.parametrize(("page", "line", "words"), LINES, ids=[f"{page}-{line[:60]}" for page, line, _ in LINES])
def test_a_command_is_one(page, line, words, here, capsys):
    follow(substituted(words), here)
    if words[:2] == ["segrobust", "attacks"]:
        assert ("q_start" if words[2:] else "tsallis-pgd") in capsys.readouterr().out


def test_the_last_line_of_the_slurm_script(here):
    (words,) = [words for _, words in commands("bash") if words[0] == "srun"]
    follow(substituted(words[1:]), here)


def follow(words: list[str], handed: list[str]) -> None:
    environment = {}
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    first, rest = words[0], words[1:]
    if first == "segrobust":
        with mock.patch.dict(os.environ, environment):
            segrobust(rest, handed)
    elif first == "python":
        python(rest, handed)
    elif first == "torchrun":
        torchrun(rest, handed)
    elif first.startswith("tools/dist_"):
        echoed = subprocess.run([ROOT / first, *rest], env={**os.environ, **environment, "PYTHON": "echo"},
                                capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
        assert echoed[:2] == ["-m", "torch.distributed.run"]
        torchrun(echoed[2:], handed)
    elif first == "sbatch":
        assert "tools/benchmark.py" in (ROOT / rest[0]).read_text()
        segrobust(["benchmark", *rest[1:]], handed)
    elif first == "make":
        rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert rest and set(rest) <= set(rules)
    elif first == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        (named,) = re.findall(r"segrobust\[(.*)\]", " ".join(rest))
        assert rest[0] == "install" and set(named.split(",")) <= set(extras)
    else:
        raise AssertionError(f"nothing follows {first!r}; write a rule for it here")


def segrobust(words: list[str], handed: list[str]) -> None:
    """Through the command line up to what it hands on; commands that are not followed are parsed."""
    command = words[0]
    if command in FOLLOWED:
        assert cli.main(words) == 0
        assert len(handed) == (command not in ("attacks", "models"))
    else:
        cli._parse(words)
    if command == "train":
        from segrobust.models.mm import load_config

        assert load_config(words[1]).train_cfg


def python(words: list[str], handed: list[str]) -> None:
    """A script of ours: thin ones by the command line, others by the flags that they know."""
    script = words[0]
    if script in ("tools/train.py", "tools/evaluate.py", "tools/report.py", "tools/benchmark.py"):
        segrobust([script.removeprefix("tools/").removesuffix(".py"), *words[1:]], handed)
        return
    text = (ROOT / script).read_text()
    missing = [word for word in words if word.startswith("--") and f'"{word}"' not in text]
    assert not missing, f"{script} has no {missing}"


def torchrun(words: list[str], handed: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(words)
    script = parsed.training_script.removeprefix(f"{ROOT}/")
    python([script, *parsed.training_script_args], handed)
