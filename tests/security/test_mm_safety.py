"""Every door by which a JSON config reaches a loader, with a payload behind it, in training and in evaluation.

Whatever timm's and mmengine's versions read carelessly is made to do so here: ``torch.load`` unpickles anything for
every caller but our own reader.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, registry
from mmengine.utils import get_object_from_string

from segrobust.commands.data import source_from_config
from segrobust.commands.training import train
from segrobust.core.errors import UserError
from segrobust.models import mm_safety
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.shipped import zoo
from tests.hooks.toys import toy_config
from tests.security.payloads import PAYLOADS

REFUSED = "refused, it holds more than plain weights"
PICKLE = "data in a pickle is not read"
UNKNOWN = "is not in the .*registry"
TIMM = dict(type="TIMMBackbone", model_name="test_resnet", features_only=True, out_indices=[0, 1])


@DATASETS.register_module()
class Listed(BaseDataset):
    """Any data set of a user that leaves reading ``ann_file`` to mmengine."""

    def __init__(self, img_suffix: str, **options: object) -> None:
        super().__init__(**options)


@pytest.fixture(autouse=True)
def careless(monkeypatch, tmp_path):
    """A world where all others unpickle anything, and where a module ``evil`` can be imported."""
    load = torch.load

    def unpickle(file, *arguments, **options):
        ours = sys._getframe(1).f_globals["__name__"] == "segrobust.models.checkpoint.reading"
        return load(file, *arguments, **(options if ours else {**options, "weights_only": False}))

    monkeypatch.setattr(torch, "load", unpickle)
    monkeypatch.setattr(torch.serialization, "load", unpickle)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()\n")
    (tmp_path / "evilscope").mkdir()
    for name in ("__init__.py", "registry.py"):
        (tmp_path / "evilscope" / name).write_text((tmp_path / "evil.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "get_object_from_string", get_object_from_string)  # as mmengine came
    monkeypatch.setattr(registry, "import_module", import_module)
    mm_safety.close_imports_by_name.cache_clear()
    yield
    mm_safety.close_imports_by_name.cache_clear()


def filled(changes, evil):
    """The values of some changes; functions are given the payload's path."""
    return {key: value(evil) if callable(value) else value for key, value in changes.items()}


def changed(**changes):
    return lambda config, evil: config.merge_from_dict(filled(changes, evil))


def timm(**options):
    """The toy model on a timm backbone."""

    def change(config, evil):
        config.model.backbone = {**TIMM, **filled(options, evil)}
        config.model.decode_head.in_channels = 32

    return change


def init_cfg(owner, **more):
    def change(config, evil):
        node = config.model if owner == "model" else config.model[owner]
        node.init_cfg = [dict(type="Constant", layer="Conv2d", val=0), dict(type="Pretrained", checkpoint=evil, **more)]

    return change


def named(change, where):
    """A name in the config that spells a module or a function."""
    return lambda config, evil: config.merge_from_dict({where: change})


IMAGES = dict(
    type="BaseSegDataset",
    data_prefix=dict(img_path="images", seg_map_path="images"),
    img_suffix=".png",
    metainfo=dict(classes=["a", "b", "c"]),
    pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")],
)


def data(**loading):
    """Both data loaders read a real image, in their own way."""

    def change(config, evil):
        dataset = {**IMAGES, "data_root": str(Path(evil).parent), **loading}
        config.train_dataloader.dataset = config.test_dataloader.dataset = dataset

    return change


def pickled(transform):
    return data(pipeline=[dict(type=transform, decode_backend="pickle")])


# name: (change of the config, what training says, what evaluation says; None: it goes on, unharmed)
DOORS = {
    "timm checkpoint_path": (timm(checkpoint_path=str, pretrained=False), REFUSED, None),
    "timm checkpoint_path alone": (timm(checkpoint_path=str), REFUSED, None),
    "timm pretrained file": (timm(pretrained_cfg=lambda evil: dict(file=evil)), "asks for a download", None),
    "timm overlay": (timm(pretrained_cfg_overlay=lambda evil: dict(file=evil)), "asks for a download", None),
    "timm file unasked": (timm(pretrained=False, pretrained_cfg=lambda evil: dict(file=evil)), None, None),
    "timm folder": (
        timm(model_name=lambda evil: f"local-dir:{Path(evil).parent}", pretrained=False),
        "local-dir.* asks for a download",
        "local-dir.*nor are timm's folders read",
    ),
    "timm hub": (timm(model_name="hf-hub:timm/x", pretrained=False), "nothing is downloaded", "nothing is downloaded"),
    "mmpretrain's timm": (
        timm(type="mmpretrain.TIMMBackbone", checkpoint_path=str, pretrained=False),
        "only mmseg's TIMMBackbone",
        "needs the package onedl-mmpretrain",
    ),
    "timm norm_layer": (timm(norm_layer="evil", pretrained=False), None, None),
    "init_cfg of the backbone": (init_cfg("backbone"), REFUSED, None),
    "init_cfg with a prefix": (init_cfg("decode_head", prefix="decode_head"), REFUSED, None),
    "init_cfg of the model": (init_cfg("model"), REFUSED, None),
    "pretrained of the backbone": (changed(**{"model.backbone.pretrained": str}), REFUSED, None),
    "pretrained of the model": (changed(**{"model.pretrained": str}), REFUSED, None),
    "load_from": (changed(load_from=str), REFUSED, None),
    "resume": (changed(load_from=str, resume=True), REFUSED, None),
    "a pickle as annotations": (data(ann_file="evil.pkl", type="Listed"), PICKLE, PICKLE),
    "YAML as annotations": (data(ann_file="evil.yaml", type="Listed"), "Python object", "Python object"),
    "classes in a file": (data(metainfo=dict(classes="evil.py")), None, None),
    "an image as a pickle": (pickled("LoadBiomedicalImageFromFile"), PICKLE, PICKLE),
    "a label as a pickle": (pickled("LoadBiomedicalAnnotation"), PICKLE, PICKLE),
    "image and label as a pickle": (pickled("LoadBiomedicalData"), PICKLE, PICKLE),
    "depth as a pickle": (pickled("LoadDepthAnnotation"), PICKLE, PICKLE),
    "images from the network": (
        data(data_prefix=dict(img_path="http://127.0.0.1:9/", seg_map_path="images"), ann_file="list.txt"),
        "nothing is downloaded",
        "nothing is downloaded",
    ),
    "a type that is a module": (named("evil", "model.type"), UNKNOWN, UNKNOWN),
    "a function of mmengine": (
        named(dict(type="mmengine.dump", obj=[1], file="marker.json"), "model.backbone"),
        "names an arbitrary Python object",
        "names an arbitrary Python object",
    ),
    "a function of mmseg": (named(dict(type="mmseg.digit_version"), "model.backbone"), UNKNOWN, UNKNOWN),
    "a head that is a module": (named("evil", "model.decode_head.type"), UNKNOWN, UNKNOWN),
    "ema_type": (named([dict(type="EMAHook", ema_type="evil")], "custom_hooks"), UNKNOWN, None),
    "default_scope": (named("evilscope", "default_scope"), UNKNOWN, UNKNOWN),
    "_scope_": (named("evilscope", "model._scope_"), UNKNOWN, UNKNOWN),
    "scope": (named("evilscope.Net", "model.type"), "names an arbitrary Python object", "names an arbitrary"),
    "text that is evaluated": (
        named([dict(type="RFSearchHook", config=dict(search=dict(search_op="evil", skip_layer=None)))], "custom_hooks"),
        "evaluates text",
        "evaluates text",
    ),
    "custom_imports": (named(dict(imports=["evil"]), "custom_imports"), "run code", "run code"),
}


def world(folder: Path, door: str) -> tuple[Path, Path]:
    """A JSON config with the door in it, a payload behind it, and the marker that the payload would leave."""
    marker, evil = folder / "marker", folder / "evil.pth"
    evil.write_bytes(PAYLOADS["beside good weights"](marker))
    (folder / "evil.pkl").write_bytes(PAYLOADS["plain pickle"](marker))
    (folder / "evil.yaml").write_text(f"data_list: !!python/object/apply:os.system ['touch {marker}']\n")
    (folder / "list.txt").write_text("0\n")
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "0.png"), np.zeros((32, 32), np.uint8))
    config = toy_config(attack=None, iters=1)
    config.test_dataloader = dict(
        batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False), dataset={}
    )
    config.test_cfg, config.test_evaluator = dict(type="TestLoop"), dict(type="IoUMetric")
    DOORS[door][0](config, str(evil))
    path = folder / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    return path, marker


def evaluated(path: Path) -> None:
    config = load_config(path)
    load_segmenter(config)
    if config.test_dataloader.dataset:
        source_from_config(config)[0]


@pytest.mark.parametrize("use", ["train", "evaluate"])
@pytest.mark.parametrize("door", DOORS)
def test_nothing_runs_behind_a_door(door, use, tmp_path, capfd):
    path, marker = world(tmp_path, door)
    words = DOORS[door][1 if use == "train" else 2]
    action = (lambda: train(path, work_dir=tmp_path / "work")) if use == "train" else (lambda: evaluated(path))
    if words is None:
        action()
    else:
        with pytest.raises(Exception, match=f"(?s){words}") as caught:
            action()
        assert isinstance(caught.value, UserError)
        assert "\n" not in str(caught.value)
    assert not marker.exists() and not (tmp_path / "marker.json").exists()
    assert not any(name.startswith("evil") for name in sys.modules)


OWN_READERS = {
    "VisionTransformer": dict(img_size=32, patch_size=16, embed_dims=16, num_layers=1, num_heads=1),
    "SwinTransformer": dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=2),
    "BEiT": dict(img_size=32, patch_size=16, embed_dims=16, num_layers=1, num_heads=1),
    "MAE": dict(img_size=32, patch_size=16, embed_dims=16, num_layers=1, num_heads=1),
    "PIDNet": dict(channels=4, ppm_channels=8),
    "MixVisionTransformer": dict(embed_dims=8, num_heads=(1, 1, 1, 1), num_layers=(1, 1, 1, 1)),
}


@pytest.mark.parametrize("kind", OWN_READERS)
def test_backbones_that_read_their_file_themselves(kind, tmp_path):
    from mmseg.registry import MODELS

    marker, evil = tmp_path / "marker", tmp_path / "evil.pth"
    evil.write_bytes(PAYLOADS["posix.system"](marker))
    init_cfg = dict(type="Pretrained", checkpoint=str(evil))
    backbone = MODELS.build(dict(type=kind, **OWN_READERS[kind], init_cfg=init_cfg))
    with pytest.raises(UserError, match=REFUSED):
        backbone.init_weights()
    assert not marker.exists()


def test_the_careless_world_is_careless(tmp_path):
    """Otherwise the tests above would prove nothing of other versions of timm."""
    import timm

    marker, evil = tmp_path / "marker", tmp_path / "evil.pth"
    evil.write_bytes(PAYLOADS["beside good weights"](marker))
    with pytest.raises(RuntimeError, match="Missing key"):
        timm.create_model("test_resnet", checkpoint_path=str(evil))
    assert marker.exists()
    from mmengine.utils import get_object_from_string

    (tmp_path / "marker").unlink()
    get_object_from_string("evil")
    assert sys.modules.pop("evil") and marker.exists()


def test_objects_named_by_a_diffusion_config_are_not_built(monkeypatch):
    import mmseg.models.backbones.vpd as vpd
    from mmseg.registry import MODELS

    monkeypatch.setattr(vpd, "has_ldm", True)
    diffusion = dict(target="os.system", params=dict(command="touch marker"))
    with pytest.raises(UserError, match="can name any Python object"):
        MODELS.build(dict(type="VPD", diffusion_cfg=diffusion, class_embed_path="x.pth", unet_cfg={}))
    assert not Path("marker").exists()


@pytest.mark.parametrize("name", ["mmcv.LoadImageFromFile", "mmengine.Config"])
def test_classes_of_the_mm_packages_keep_their_names_where_imports_are_closed(name):
    mm_safety.close_imports_by_name()
    assert registry.get_object_from_string(name).__name__ == name.partition(".")[2]


FOREIGN = ("os.system", "mmengine.load", "mmengine.fileio.load", "mmcv.cv2", "mmcv.np.load", "evil", "evil.x", "mmseg")


@pytest.mark.parametrize("name", FOREIGN)
def test_nothing_else_is_found_by_its_name(name, tmp_path):
    mm_safety.close_imports_by_name()
    assert registry.get_object_from_string(name) is None
    assert not (tmp_path / "marker").exists()


def test_a_shipped_model_closes_nothing_for_other_configs_of_the_process():
    """A notebook may evaluate a shipped model and then train a config that names torch's own classes."""
    load_config(next(iter(zoo())))
    assert registry.get_object_from_string("torch.optim.SGD") is torch.optim.SGD


def test_data_are_safe_where_a_config_of_data_is_the_first_thing(tmp_path, repository):
    steps = [dict(type="LoadBiomedicalImageFromFile", decode_backend="pickle"), dict(type="PackSegInputs")]
    dataset = dict(type="ImageLabelFolder", data_root=str(tmp_path), metainfo=dict(classes=["a", "b"]), pipeline=steps)
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / kind / "train" / "x.png"), np.zeros((4, 4), np.uint8))
    code = f"""
from segrobust.commands.data import majority_of_config, source_from_config
for read in (source_from_config, lambda config: majority_of_config(config, None)):
    try:
        read(dict(test_dataloader=dict(dataset={dataset!r}), train_dataloader=dict(dataset={dataset!r})))
    except ValueError as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith("UserError") and PICKLE in line for line in lines), done.stderr
