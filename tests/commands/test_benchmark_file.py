"""The file of a benchmark and the options of its cells: every mistake is one line, before anything is built."""

from __future__ import annotations

import json

import pytest

from segrobust.cli import main
from segrobust.commands.benchmark_cells import Benchmarking, cells_of, work_dir_of
from segrobust.commands.benchmark_file import read_benchmark
from segrobust.core.errors import UserError
from segrobust.models.shipped import zoo

NAME = next(iter(zoo()))
MODEL, STUDY = {"name": "ours", "model": NAME}, {"name": "quick", "attacks": ["CEPGD"]}
GOOD = {"name": "mine", "models": [MODEL], "studies": [STUDY]}
WRONG = {
    "unknown key": ({"model": []}, "unknown key 'model'; did you mean models or golden?"),
    "no models": ({"models": None}, "expected models=..., got none"),
    "empty list": ({"models": []}, "models: expected a list of at least one dict(name=..., ...), got []"),
    "no list": ({"studies": STUDY}, "studies: expected a list of at least one dict"),
    "no dict": ({"models": ["x"]}, "models[0]: expected dict(name=..., ...), got 'x'"),
    "key of a model": ({"models": [{**MODEL, "weights": "x"}]}, "models[0] (ours): unknown key 'weights'; known: "),
    "no model": ({"models": [{"name": "ours"}]}, "models[0] (ours): expected model=..., got none"),
    "recipe": ({"models": [{**MODEL, "recipe": 3}]}, "models[0] (ours): recipe: expected a text, got 3"),
    "option": ({"studies": [{**STUDY, "stepz": 3}]}, "studies[0] (quick): unknown option 'stepz'; did you mean steps"),
    "own option": ({"studies": [{**STUDY, "work_dir": "x"}]}, "work_dir is not an option of a study or model here"),
    "a model's": ({"models": [{**MODEL, "options": {"fresh": True}}]}, "models[0] (ours): fresh is not an option"),
    "object": ({"studies": [{**STUDY, "fit_on": 1}]}, "studies[0] (quick): unknown option 'fit_on'"),
    "two models": ({"models": [MODEL, {**MODEL, "name": "Ours"}]}, "two of the models are called 'ours'"),
    "two studies": ({"studies": [STUDY, STUDY]}, "two of the studies are called 'quick'"),
    "golden": ({"golden": "none.json"}, "no such file: 'none.json'"),
}
HOSTILE = (
    "",
    "..",
    "../x",
    "a/b",
    "a\\b",
    "/x",
    ".hidden",
    "-x",
    "a b",
    "a\nb",
    "<b>",
    "x.",
    "Report.HTML",
    "x" * 101,
)
HOSTILE += ("a|b", "\u202ex", "$(x)", 3, None)


def written(folder, content, name="file.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_in_a_file_is_one_line(in_tmp, capsys, what):
    changes, words = WRONG[what]
    assert main(["benchmark", str(written(in_tmp, {**GOOD, **changes}))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"segrobust: error: {in_tmp / 'file.json'}: ") and words in line
    assert sorted(in_tmp.iterdir()) == [in_tmp / "file.json"]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_name_is_a_folder_s(tmp_path, name):
    for changes in ({"name": name}, {"models": [{**MODEL, "name": name}]}, {"studies": [{**STUDY, "name": name}]}):
        with pytest.raises(UserError, match="name"):
            read_benchmark(written(tmp_path, {**GOOD, **changes}))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", "{", "is not JSON"),
        ("x.json", "[]", "expected name, models, studies, got list"),
        ("x.yaml", "name: x", "expected a file ending in .py or .json, got .yaml"),
        ("x.py", "name = nope", "NameError"),
        ("x.py", "name = (", "line 1"),
        ("none.json", None, "no such file"),
    ],
)
def test_a_file_that_is_none(tmp_path, capsys, name, content, words):
    path = tmp_path / name if content is None else written(tmp_path, content, name)
    assert main(["benchmark", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def cells(folder, content=GOOD, **asked):
    path = written(folder, content)
    asked = Benchmarking(file=path, **asked)
    return cells_of(read_benchmark(path), asked)


def test_a_python_file_may_compute_and_inherit(tmp_path):
    written(tmp_path, f"models = [dict(name='ours', model={NAME!r})]\n", "base.py")
    text = "_base_ = ['base.py']\n_radii = ['1/255', '2/255']\nname = 'mine'\nstudies = [dict(name='a', eps=_radii)]\n"
    file = read_benchmark(written(tmp_path, text, "file.py"))
    assert (file.name, file.models[0].model, file.studies[0].options) == ("mine", NAME, {"eps": ["1/255", "2/255"]})


def test_options_of_the_model_stand_in_place_of_the_study_s_and_the_command_line_s_in_place_of_both(tmp_path):
    model = {**MODEL, "options": {"batch_size": 1, "num_images": 6, "cfg_options": ["a.b=1"]}}
    study = {**STUDY, "batch_size": 2, "seed": 5, "num_images": 9}
    content = {**GOOD, "models": [MODEL, model | {"name": "large"}], "studies": [study]}
    plain, large = cells(tmp_path, content)
    assert (plain.settings.batch_size, plain.settings.seed, plain.inputs.num_images) == (2, 5, 9)
    assert (large.settings.batch_size, large.settings.seed, large.inputs.num_images) == (1, 5, 6)
    assert large.inputs.cfg_options == ("a.b=1",) and large.settings.attacks == ("CEPGD",)
    plain, large = cells(tmp_path, content, batch_size=3, num_images=7, checks=False, fresh=True)
    assert (plain.settings.batch_size, large.settings.batch_size, large.settings.fresh) == (3, 3, True)
    assert (plain.inputs.num_images, large.inputs.num_images, large.settings.checks) == (7, 6, False)


def test_where_results_go(tmp_path):
    path = written(tmp_path, GOOD)
    file, own = read_benchmark(path), tmp_path / "own"
    for asked, folder in (({}, "work_dirs/mine"), ({"num_images": 4}, "work_dirs/mine-4-images")):
        assert str(work_dir_of(file, Benchmarking(file=path, **asked))) == folder
    (cell,) = cells(tmp_path, work_dir=own, num_images=4)
    assert cell.inputs.work_dir == own / "ours" / "quick" and str(cell) == "ours / quick"


def test_files_are_looked_for_beside_the_file_and_then_in_the_current_folder(tmp_path, in_tmp):
    beside, here = tmp_path / "beside", tmp_path
    (beside / "data").mkdir(parents=True)
    for folder in (beside, here):
        (folder / "x.pth").write_text("")
    for file in (beside / "x.py", here / "net.py", here / "here.pth"):
        file.write_text("")
    more = {"model": "x.py", "checkpoint": "x.pth", "options": {"data_root": "data"}}
    net = {"name": "net", "model": "net.py:build", "checkpoint": "here.pth", "options": {"imports": ["x.py", "json"]}}
    first, second = cells(beside, {**GOOD, "models": [{**MODEL, **more}, net]})
    assert first.inputs.config == str(beside / "x.py") and first.inputs.checkpoint == beside / "x.pth"
    assert first.inputs.data_root == beside / "data"
    assert second.inputs.config == "net.py:build" and str(second.inputs.checkpoint) == "here.pth"
    assert second.inputs.imports == (str(beside / "x.py"), "json")


ONLY = {
    ("a",): ["a/s", "a/both"],
    ("s",): ["a/s", "both/s"],
    ("a/s",): ["a/s"],
    ("*/both", "a/s"): ["a/s", "a/both", "both/both"],
    ("both/*",): ["both/s", "both/both"],
    (): ["a/s", "a/both", "both/s", "both/both"],
}


def some(folder, only):
    models, studies = (
        [{**what, "name": name} for name in names] for what, names in ((MODEL, ("a", "both")), (STUDY, ("s", "both")))
    )
    chosen = cells(folder, {**GOOD, "models": models, "studies": studies}, only=only)
    return [f"{cell.model.name}/{cell.study.name}" for cell in chosen]


@pytest.mark.parametrize("words", ONLY, ids=str)
def test_only_some_cells(tmp_path, words):
    assert some(tmp_path, words) == ONLY[words]


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("both", "a model and a study have this name; say both/* or */both"),
        ("bots", "unknown model or study 'bots'; did you mean both"),
        ("bots/s", "unknown model 'bots'; did you mean both"),
        ("a/bots", "unknown study 'bots'; did you mean both"),
    ],
)
def test_names_that_are_not_there(tmp_path, word, words):
    with pytest.raises(UserError) as caught:
        some(tmp_path, ("a", word))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("model", "study", "words"),
    [
        ({"checkpoint": "none.pth"}, {}, "no such file"),
        ({"model": f"{NAME}x"}, {}, f"did you mean the shipped model {NAME}"),
        ({}, {"eps": ["8"]}, '"8/255"'),
        ({}, {"attacks": ["cepgt"]}, "unknown attack 'cepgt'"),
        ({"options": {"data": "x"}}, {}, "--data goes with FILE.py:FUNCTION"),
        ({}, {"num_images": "few"}, "num_images: expected a whole number >= 1, got 'few'"),
    ],
)
def test_what_is_wrong_with_a_cell_is_told_before_any_is_run(in_tmp, capsys, model, study, words):
    good = {**MODEL, "name": "first"}
    content = {**GOOD, "models": [good, {**MODEL, **model}], "studies": [{**STUDY, **study}]}
    assert main(["benchmark", str(written(in_tmp, content))]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert words in line and " / quick: " in line
    assert sorted(in_tmp.iterdir()) == [in_tmp / "file.json"]
