"""Checkpoints in the layouts of OpenMMLab's published files load strictly, numpy 1's pickles and all; made here."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from segrobust.core.errors import UserError
from segrobust.models.checkpoint.loading import load_state_dict
from segrobust.models.checkpoint.reading import read_checkpoint, stored_class_names
from segrobust.models.load import load_segmenter
from segrobust.models.mm import import_mmseg
from tests.models.tiny import CLASSES, mmseg_config, stir

import_mmseg()
NAMES, COLOURS = tuple("abcde"), [[number, 0, 0] for number in range(CLASSES)]
AUXILIARY = dict(type="FCNHead", in_channels=32, in_index=2, channels=8, num_convs=1, num_classes=CLASSES,
                 norm_cfg=dict(type="SyncBN", requires_grad=True), align_corners=False,
                 loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True, loss_weight=0.4))  # fmt: skip
CONFIG_TEXT = (
    "norm_cfg = dict(type='SyncBN', requires_grad=True)\nmodel = dict(type='EncoderDecoder')\nraise SystemExit\n"
)


class Numpy1(pickle._Pickler):
    """Writes what lies in ``numpy._core`` under the names that numpy 1 had for it, as torch.save did then."""

    def save_global(self, obj, name=None):
        module = str(getattr(obj, "__module__", ""))
        if module.startswith("numpy._core."):
            name = name or obj.__qualname__
            self.write(pickle.GLOBAL + f"{module.replace('numpy._core', 'numpy.core')}\n{name}\n".encode())
            self.memoize(obj)
            return
        super().save_global(obj, name)

    dispatch = {**pickle._Pickler.dispatch}


Numpy1.dispatch[type(lambda: 0)] = Numpy1.save_global
NUMPY1 = SimpleNamespace(
    Pickler=Numpy1, Unpickler=pickle.Unpickler, dump=lambda obj, file, protocol=2: Numpy1(file, protocol).dump(obj),
    dumps=pickle.dumps, load=pickle.load, loads=pickle.loads, __name__="pickle",
)  # fmt: skip


def config_with(auxiliary: dict | None = AUXILIARY, norm: str = "SyncBN"):
    norm_cfg = dict(type=norm, requires_grad=True)
    config = mmseg_config(backbone=dict(norm_cfg=norm_cfg), head=dict(norm_cfg=norm_cfg))
    config.model.auxiliary_head = auxiliary
    config.test_dataloader = dict(dataset=dict(type="BaseSegDataset", metainfo=dict(classes=NAMES, palette=COLOURS)))
    return config


def trained(config, seed: int = 3) -> OrderedDict:
    """The state dict of such a model as its training leaves it, with torch's ``_metadata``."""
    from mmengine.model import revert_sync_batchnorm
    from mmseg.registry import MODELS

    torch.manual_seed(seed)
    module = revert_sync_batchnorm(MODELS.build(config.model))
    stir(module)
    return module.state_dict()


def optimizer(weights: OrderedDict) -> dict:
    group = dict(lr=np.float64(0.01), momentum=0.9, weight_decay=0.0005, params=[0, 1], initial_lr=0.01)
    return dict(state={0: dict(momentum_buffer=torch.zeros(2))}, param_groups=[group])


def mmseg0(weights: OrderedDict) -> dict:
    """mmseg 0.x: ``meta`` with CLASSES, PALETTE and the config's text, and no counters of steps in the first ones."""
    meta = dict(
        env_info="sys.platform: linux\nPyTorch: 1.6.0\nmmseg: 0.11.0+", seed=np.int64(0), exp_name="pspnet_r50.py",
        mmseg_version="0.11.0+8e25c3c", mmcv_version="1.3.0", time="Wed Mar 10 01:13:47 2021", config=CONFIG_TEXT,
        CLASSES=NAMES, PALETTE=np.array(COLOURS, np.uint8), epoch=np.int32(7), iter=80000,
        hook_msgs=dict(best=np.float32(71.5)),
    )  # fmt: skip
    weights = OrderedDict((key, one) for key, one in weights.items() if not key.endswith("num_batches_tracked"))
    return dict(meta=meta, state_dict=weights, optimizer=optimizer(weights))


def mmseg1(weights: OrderedDict) -> dict:
    """mmseg 1.x: ``message_hub`` with log histories, schedulers, and data classes under ``dataset_meta``."""
    from mmengine.logging import HistoryBuffer

    scalars = OrderedDict(
        {"train/loss": HistoryBuffer([2.5, 1.5], [1, 1]), "val/mIoU": HistoryBuffer([np.float64(77.1)], [1])}
    )
    meta = dict(cfg=CONFIG_TEXT, dataset_meta=dict(classes=NAMES, palette=COLOURS), seed=1, iter=80000, epoch=0,
                experiment_name="pspnet", time="20230101_000000", mmengine_version="0.4.0")  # fmt: skip
    hub = dict(
        log_scalars=scalars, runtime_info=OrderedDict(iter=80000, best=np.float64(77.1)), resumed_keys=OrderedDict()
    )
    schedulers = [dict(by_epoch=False, begin=0, end=80000, last_step=80000, _last_value=[np.float64(1e-4)])]
    return dict(
        meta=meta, state_dict=weights, message_hub=hub, optimizer=optimizer(weights), param_schedulers=schedulers
    )


LAYOUTS = {"mmseg 0.x": mmseg0, "mmseg 1.x": mmseg1}


def written(content: dict, path, numpy1: bool = True, zipped: bool = True):
    options = dict(pickle_module=NUMPY1) if numpy1 else {}
    torch.save(content, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def raw(path) -> bytes:
    """The pickle inside a file of ``torch.save``."""
    import zipfile

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    return path.read_bytes()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in second)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("numpy1", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_file_loads_strictly_and_nothing_in_it_runs(layout, numpy1, zipped, tmp_path):
    weights = trained(config_with())
    path = written(LAYOUTS[layout](weights), tmp_path / "published.pth", numpy1, zipped)
    assert (b"numpy.core.multiarray" in raw(path)) == numpy1
    assert (b"numpy._core" in raw(path)) != numpy1
    model = load_segmenter(config_with(), path, device="cpu", channels_last=False)
    loaded = {key: one for key, one in model.network.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert same(weights, loaded)
    assert {"decode_head.conv_seg.weight", "auxiliary_head.conv_seg.weight"} <= loaded.keys()
    assert stored_class_names(path) == NAMES
    assert model.class_names == NAMES
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, CLASSES, 32, 32)


def test_numbers_in_a_published_file_are_read_as_they_were(tmp_path):
    content = read_checkpoint(written(mmseg0(trained(config_with())), tmp_path / "old.pth"))
    assert (content["meta"]["PALETTE"] == np.array(COLOURS)).all()
    assert (content["meta"]["seed"], content["meta"]["epoch"], content["meta"]["hook_msgs"]["best"]) == (0, 7, 71.5)
    assert content["optimizer"]["param_groups"][0]["lr"] == 0.01
    hub = read_checkpoint(written(mmseg1(trained(config_with())), tmp_path / "new.pth"))["message_hub"]
    assert hub["log_scalars"]["train/loss"].mean() == 2
    assert hub["log_scalars"]["val/mIoU"].current() == 77.1


def test_averaged_weights_beside_the_raw_ones(tmp_path):
    weights, averaged = trained(config_with()), trained(config_with(), seed=4)
    named = {f"module.{key}": one for key, one in averaged.items()}
    content = mmseg1(weights) | dict(ema_state_dict=OrderedDict(steps=torch.tensor(5), **named))
    path = written(content, tmp_path / "ema.pth")
    taken = {kind: load_state_dict(path, weights=kind) for kind in ("raw", "ema")}
    assert not same(taken["raw"], taken["ema"])
    assert {frozenset(one) for one in taken.values()} == {frozenset(weights)}
    for kind in taken:
        model = load_segmenter(config_with(), path, device="cpu", weights=kind, channels_last=False)
        assert same(model.network.state_dict(), taken[kind])


def test_an_auxiliary_head_plays_no_part_in_the_answers(tmp_path):
    weights = trained(config_with())
    images = torch.rand(1, 3, 32, 32)
    model = load_segmenter(config_with(), written(mmseg0(weights), tmp_path / "a.pth"), device="cpu")
    before = model(images)
    for parameter in model.network.auxiliary_head.parameters():
        parameter.data.zero_()
    assert torch.equal(model(images), before)


def test_an_auxiliary_head_that_only_one_of_the_two_has_is_told(tmp_path):
    both = written(mmseg0(trained(config_with())), tmp_path / "both.pth")
    none = written(mmseg0(trained(config_with(auxiliary=None))), tmp_path / "none.pth")
    with pytest.raises(
        UserError, match=r"lacks auxiliary_head\..* and \d+ more; it plays no part.*model\.auxiliary_head=None"
    ):
        load_segmenter(config_with(), none, device="cpu")
    with pytest.raises(UserError, match=r"no place for auxiliary_head\..*; put the auxiliary_head that it was trained"):
        load_segmenter(config_with(auxiliary=None), both, device="cpu")
    load_segmenter(config_with(auxiliary=None), none, device="cpu")
    other = mmseg0(OrderedDict((key, one) for key, one in trained(config_with()).items() if "conv_seg" not in key))
    with pytest.raises(UserError, match=r"lacks decode_head\.conv_seg\.weight and 3 more; is it the right config\?"):
        load_segmenter(config_with(), written(other, tmp_path / "other.pth"), device="cpu")


def test_weights_of_another_number_of_classes_or_layout_do_not_load(tmp_path):
    weights = trained(config_with())
    weights["backbone.conv1.weights"] = weights.pop("backbone.conv1.weight")
    with pytest.raises(UserError, match=r"lacks backbone\.conv1\.weight.*no place for backbone\.conv1\.weights"):
        load_segmenter(config_with(), written(mmseg0(weights), tmp_path / "a.pth"), device="cpu")
    fewer = config_with(auxiliary=None)
    fewer.model.decode_head.num_classes = 4
    with pytest.raises(UserError, match=r"wrong number of classes: 5 in the checkpoint, 4 in the model"):
        load_segmenter(fewer, written(mmseg0(trained(config_with(auxiliary=None))), tmp_path / "b.pth"), device="cpu")


def test_the_rewritten_pickle_is_numpy_1s():
    """Guards the tests above: what they write is what numpy 1 wrote."""
    file = io.BytesIO()
    Numpy1(file, 2).dump([np.float64(0.5), np.arange(3)])
    assert b"cnumpy.core.multiarray\nscalar\n" in file.getvalue()
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in file.getvalue()
