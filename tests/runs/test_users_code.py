"""Code of a user's own decides rows too: attacks and networks, their bases, and what their files hold besides."""

from __future__ import annotations

import importlib
import linecache
import sys

import pytest
from torch import nn

from segrobust.attacks.registry import ATTACKS, build_attack
from segrobust.commands.evaluation import evaluate
from segrobust.core.errors import UserError
from segrobust.models.segmenter import Segmenter
from segrobust.runs.users_code import users_code
from segrobust.studies.attack import plan_attacks
from tests.runs.toy_run import RUN, K, ToySource, lines, toy_model

ATTACK = """
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.registry import register_attack

def power(): return 2.0

@register_attack
class Mine(GradientAttack):
    def weight(self, pixels):
        return pixels.log_p.exp() ** power()
"""
BASE = """
from torch import nn

class Base(nn.Module):
    def forward(self, images): return 2 * self.rule(images)
"""
NET = """
from torch import nn
from my_base import Base

class Net(Base):
    def __init__(self):
        super().__init__()
        self.rule = nn.Conv2d(3, 4, 1)
"""
FILES = {"my_attack": ATTACK, "my_base": BASE, "my_net": NET}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Write files of the user's and import them as another start would; a mapping by name."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files of one second and length would not be read again

    def load(**changed: str):
        ATTACKS.pop("Mine", None)
        for name, text in {**FILES, **changed}.items():
            (folder / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return {name: importlib.import_module(name) for name in FILES}

    yield load
    ATTACKS.pop("Mine", None)
    for name in FILES:
        sys.modules.pop(name, None)


def digests(modules: dict) -> dict[str, str]:
    return users_code([modules["my_net"].Net(), build_attack("Mine")])


def test_every_file_of_a_class_or_a_base_counts(modules):
    plain = digests(modules())
    assert list(plain) == ["my_attack", "my_base", "my_net"] and len(set(plain.values())) == 3
    assert digests(modules()) == plain
    changes = {"my_attack": ATTACK.replace("2.0", "2.5"), "my_base": BASE.replace("2 *", "3 *"), "my_net": NET + "\n"}
    for name, text in changes.items():
        changed = digests(modules(**{name: text}))
        assert {one for one in plain if changed[one] != plain[one]} == {name}


def test_a_file_that_is_edited_while_it_runs_is_not_what_runs(modules):
    loaded = modules()
    plain = digests(loaded)
    with open(loaded["my_base"].__file__, "a") as file:
        file.write("# more\n")
    assert digests(loaded) == plain


def test_members_of_ensembles_count(modules):
    plain = digests(modules())["my_attack"]
    standard = build_attack("Standard", attacks=("CEPGD", "Mine"), steps=10)
    assert users_code(plan_attacks([standard], [0.1])[0].made_of) == {"my_attack": plain}
    studies = plan_attacks(["SEA", "MinNormEnsemble"], [0.1])
    assert users_code(part for study in studies for part in study.made_of) == {}


def test_segrobusts_own_code_and_known_libraries_have_no_digest():
    assert list(users_code([nn.Sequential(nn.Conv2d(3, 4, 1)), build_attack("TsallisPGD")])) == []
    assert list(users_code([toy_model()])) == ["tests.attacks.toys"]


def in_a_cell(text: str) -> nn.Module:
    linecache.cache["<cell>"] = (len(text), None, text.splitlines(keepends=True), "<cell>")
    names = {"__name__": "a_notebook"}
    exec(compile(text, "<cell>", "exec"), names)  # noqa: S102 - as a notebook does
    return names["Base"]()


def test_a_notebooks_cell_counts():
    plain, same, other = (users_code([in_a_cell(text)]) for text in (BASE, BASE, BASE.replace("2 *", "3 *")))
    assert plain == same != other and list(plain) == list(other) == ["a_notebook"]


def test_another_weight_or_network_does_not_go_on_with_the_rows(modules, tmp_path):
    def start(work_dir, loaded, **changes):
        model = Segmenter.wrap(loaded["my_net"].Net().eval(), num_classes=K, name="mine")
        model.load_state_dict(weights)
        settings = {**RUN, "attacks": ["Mine"], "eps": ["2/255"], "pictures": False, **changes}
        evaluate(model, ToySource(), work_dir=work_dir, **settings)

    loaded = modules()
    weights = Segmenter.wrap(loaded["my_net"].Net(), num_classes=K).state_dict()
    start(tmp_path / "run", loaded)
    before = lines(tmp_path / "run")
    start(tmp_path / "run", modules())
    for name, text in {"my_attack": ATTACK.replace("2.0", "2.5"), "my_base": BASE.replace("2 *", "3 *")}.items():
        told = rf'run: users_code\.{name} is "\w+" there and "\w+" here; .*--accept-different CODE to go on'
        with pytest.raises(UserError, match=told):
            start(tmp_path / "run", modules(**{name: text}))
    assert lines(tmp_path / "run") == before
    start(tmp_path / "run", modules(my_attack=ATTACK + "# words alone\n"), accept_different="CODE")


def test_the_surrogates_code_counts(modules, tmp_path):
    def start():
        surrogate = Segmenter.wrap(modules()["my_net"].Net().eval(), num_classes=K, name="other")
        settings = {**RUN, "attacks": ["CEPGD"], "eps": ["2/255"], "pictures": False, "surrogate": surrogate}
        evaluate(toy_model(), ToySource(), work_dir=tmp_path / "run", **settings)

    start()
    stored = (tmp_path / "run" / "run.json").read_text()
    assert '"my_base": ' in stored and '"tests.attacks.toys": ' in stored
