"""The files of published results name what segrobust has, and the benchmarks beside them run what was published."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from segrobust.analysis.golden import OWN, compare, read_golden
from segrobust.attacks.registry import build_attack
from segrobust.commands.inputs import Inputs
from segrobust.core.attack_specs import parse_spec
from segrobust.core.errors import UserError
from segrobust.core.units import parse_eps
from segrobust.datasets.protocols import PROTOCOLS
from segrobust.models.mm import configs_of_mmseg, load_config
from segrobust.models.published import PUBLISHED
from segrobust.runs.settings import Settings
from segrobust.studies.attack import fields_of, plan_attacks

FOLDER = Path(__file__).resolve().parents[2] / "configs/benchmarks/golden"
GOLDEN = read_golden(FOLDER / "all.json")
ATTACKED = [cell for cell in GOLDEN.cells if cell.attack not in (None, "clean")]
BENCHMARKS = sorted(FOLDER.glob("*.py"))
FILES = ("SEGROBUST_PIRAT", "SEGROBUST_DDCAT", "SEGROBUST_OPENMMLAB")
DATA = ("SEGROBUST_VOC", "SEGROBUST_ADE", "SEGROBUST_CITYSCAPES")


def test_every_attack_is_built_with_as_many_gradients_as_the_file_says():
    for spec, backwards, norm in {(cell.attack, cell.backwards, cell.norm) for cell in ATTACKED}:
        attack = build_attack(spec, norm=norm)
        assert attack.passes()[1] == backwards, spec


def test_without_a_preset_an_attack_is_the_published_one():
    """So records of either name count."""
    plain = {cell.attack for cell in ATTACKED if "preset" not in parse_spec(cell.attack)}
    assert {"SEA", "JSPGD", "MaskedPGD", "BalancedPGD", "SEA(losses=v1)"} < plain
    for spec in plain - {one for one in plain if one.startswith(("CosPGD", "SegPGD"))}:
        assert fields_of(build_attack(spec)) == fields_of(build_attack(spec, preset="published"))


def test_attacks_that_are_compared_are_told_apart():
    """By name, radius, gradients and the settings that records are told: no number is set beside another attack's."""
    told: dict[tuple, set] = {}
    for cell in ATTACKED:
        given = parse_spec(cell.attack)
        told.setdefault((given["type"], given.get("preset"), cell.backwards, cell.norm), set()).add(cell.attack)
    for specs in told.values():
        settings = [{k: v for k, v in fields_of(build_attack(spec)).items()
                     if k in ("steps", "step_size", "random_start", "keep")} for spec in specs]  # fmt: skip
        assert all(settings.count(one) == 1 for one in settings), specs


def test_protocols_data_and_models_are_known():
    for cell in GOLDEN.cells:
        assert set(cell.nearest) | ({cell.protocol} - {None}) <= {*PROTOCOLS, OWN}, cell.where
        assert (cell.data, cell.images) in {("VOC 2012", 1449), ("Cityscapes", 500), ("ADE20K", 2000)}
        assert cell.source and cell.why and cell.tag in {"tex", "pdf", "P*", "ocr", "C", "run", "metafile"}
        assert cell.protocol_published and cell.split == "val"
        assert (cell.model in PUBLISHED) == (not cell.model_is), cell.model
        if cell.model in PUBLISHED:
            assert cell.data == PUBLISHED[cell.model].data.name
        assert cell.needs == (
            "tiles" if cell.where[0] == "ddcat.json" or cell.where[:2] == ("cospgd.json", "ddcat") else ""
        )
    known = set(configs_of_mmseg())
    named = {cell.model_is.split(", ")[0] for cell in GOLDEN.cells if cell.where[0] == "openmmlab.json"}
    assert len(named) == 39 and {f"{name.removeprefix('mmseg::')}.py" for name in named} <= known


def test_what_models_are_published_with_stands_in_the_files():
    """The scores that `segrobust models` shows, but for rounding."""
    for one in PUBLISHED.values():
        for what, score in one.scores.items():
            columns = {"clean"} if what == "clean" else {what, what.removesuffix(" 0.03")}
            found = [cell.value for cell in GOLDEN.cells if cell.model == one.name and cell.column in columns
                     and cell.metric == "mIoU"]  # fmt: skip
            assert any(abs(value - score.miou) < 0.11 for value in found), (one.name, what)


@pytest.fixture
def everything_there(tmp_path, monkeypatch):
    """All folders and checkpoints that the files ask for, the latter empty."""
    for variable in FILES + DATA:
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for file in BENCHMARKS:
        for model in load_config(file).models:
            path = Path(model.checkpoint)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_a_benchmark_is_one_of_what_segrobust_runs(file, everything_there):
    content = {key: value for key, value in load_config(file).to_dict().items() if not key.startswith("_")}
    assert set(content) == {"name", "models", "studies", "golden"} and content["name"] == "golden-" + file.stem.replace(
        "_", "-"
    )
    assert read_golden(file.parent / content["golden"]) == GOLDEN
    inputs, settings = ({field.name for field in dataclasses.fields(kind)} for kind in (Inputs, Settings))
    names = [study["name"] for study in content["studies"]]
    assert len(set(names)) == len(names)
    for model in content["models"]:
        assert set(model) <= {"name", "model", "checkpoint", "recipe", "paper", "command", "options"}
        if model["name"] in PUBLISHED:
            assert model["model"] == model["name"] and model["checkpoint"].endswith(PUBLISHED[model["name"]].file)
        for study in content["studies"]:
            given = {key: value for key, value in study.items() if key != "name"} | model["options"]
            assert given.keys() <= inputs | settings
            told = Inputs.of(config=model["model"], checkpoint=model["checkpoint"],
                             **{key: value for key, value in given.items() if key in inputs})  # fmt: skip
            asked = Settings.of(**{key: value for key, value in given.items() if key in settings})
            assert told.protocol or asked.metric_size == "original"


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_a_benchmark_runs_whatever_is_compared_of_its_models(file, everything_there):
    """Its records, had it run on the whole split, meet every published number of an attack that segrobust has."""
    content = load_config(file)
    (model, *_) = content.models
    asked = {"protocol": model.options.get("protocol")}
    protocol = Inputs.of(config=model.model, checkpoint=model.checkpoint, **asked).protocol
    records = [{"study": "clean", "name": "clean", "norm": None, "eps": None}]
    for study in content.studies:
        for one in plan_attacks(study.attacks, study.get("eps", ["4/255"])) if study.attacks else []:
            records.append({"study": "attack", "name": one.name, "norm": "Linf", "eps": one.radii[0],
                            "backwards": float(one.attack.passes()[1]), "fields": fields_of(one.attack)})  # fmt: skip
    scores = {"aAcc": 1.0, "mIoU": 1.0, "mAcc": 1.0, "mIoU_greedy": 1.0, "ci": {}, "iou": [1.0], "protocol": protocol}
    scores |= {"images": 500, "metric_size": model.options.get("metric_size", "input")}
    images = {cell.model: cell.images for cell in GOLDEN.cells}
    measured = {m.name: [one | scores | {"images": images[m.name]} for one in records] for m in content.models}
    found = compare(GOLDEN, measured)
    missed = [one for one in found if one.ours is None and one.cell.attack is not None]
    assert not missed, [(one.cell.where, one.verdict, one.reason) for one in missed[:3]]
    assert sum(one.ours is not None for one in found) >= len(content.models)


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_with_nothing_set_one_line_says_what_is_missing(file, monkeypatch, tmp_path):
    for variable in FILES + DATA:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    model = load_config(file).models[0]
    with pytest.raises(UserError, match=r"^checkpoint: no such file: '(SEGROBUST_\w+)_is_not_set/") as error:
        Inputs.of(config=model.model, checkpoint=model.checkpoint)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^data_root: no such folder: 'SEGROBUST_\w+_is_not_set'$"):
        Inputs.of(config=model.model, data_root=model.options.data_root)


def test_class_counts_of_a_published_model_are_an_option():
    """The weights of SEA's balanced loss are those of the training set."""
    config = load_config("pirat-upernet-convnext-t-voc", {"attack_defaults.BalancedPGD.class_counts": "train"})
    assert config.attack_defaults == {"BalancedPGD": {"class_counts": "train"}}
    with pytest.raises(UserError, match="unknown config entry 'atack_defaults'; did you mean attack_defaults"):
        load_config("pirat-upernet-convnext-t-voc", {"atack_defaults.BalancedPGD.class_counts": "train"})


def test_eps_as_published_is_the_radius_that_is_run():
    for cell in ATTACKED:
        text = cell.eps_published
        if text.endswith("/255") and " " not in text:
            assert cell.eps == (parse_eps(text),), cell.where
        else:
            assert cell.eps[0] == 0.03, cell.where
