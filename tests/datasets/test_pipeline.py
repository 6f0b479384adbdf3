"""What becomes of a config's pipelines: segrobust's own reading, options honoured or refused, no chance in a test."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from mmengine import Config
from PIL import Image

from segrobust.commands.data import source_from_config
from segrobust.core.errors import UserError
from segrobust.datasets.pipeline import with_own_reading
from segrobust.hooks.train_runner import TrainRunner
from segrobust.models.mm import import_mmseg

from .conftest import write_pair

import_mmseg()

from mmcv.transforms import LoadImageFromFile  # noqa: E402
from mmseg.datasets.transforms import LoadAnnotations  # noqa: E402

IMAGE, LABEL, PACK = dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")


def types(steps):
    return [step["type"] for step in steps]


def test_mmsegs_loaders_are_replaced_wherever_they_stand():
    inner = dict(type="CityscapesDataset", pipeline=[dict(type=LoadImageFromFile), dict(type=LoadAnnotations), PACK])
    others = dict(type="ADE20KDataset", ignore_index=7, pipeline=[dict(type="mmcv.LoadImageFromFile"), LABEL])
    wrapped = dict(type="SeededDataset", dataset=dict(type="ConcatDataset", datasets=[inner, others]))
    own = with_own_reading(Config(dict(data=wrapped)).data)
    first, second = own["dataset"]["datasets"]
    assert types(first["pipeline"]) == ["ReadImage", "ReadLabel", "PackSegInputs"]
    assert types(second["pipeline"]) == ["ReadImage", "ReadLabel"]
    assert first["pipeline"][1]["num_classes"] == 19 and "ignore_index" not in first["pipeline"][1]
    assert second["pipeline"][1]["num_classes"] == 150 and second["pipeline"][1]["ignore_index"] == 7
    assert types(inner["pipeline"])[0] is LoadImageFromFile, "the config itself stays as it is"


def test_a_step_of_the_users_own_after_loading_leaves_ids_to_it():
    known = with_own_reading(dict(type="ADE20KDataset", pipeline=[LABEL, dict(type="RandomCrop", crop_size=(4, 4))]))
    unknown = with_own_reading(dict(type="ADE20KDataset", pipeline=[LABEL, dict(type="MapMyIds"), PACK]))
    assert (known["pipeline"][0]["checked"], unknown["pipeline"][0]["checked"]) == (True, False)


def test_a_users_own_class_of_the_same_name_stays():
    from mmseg.registry import TRANSFORMS

    class Mine(LoadAnnotations):
        pass

    TRANSFORMS.register_module(name="MyLoadAnnotations", module=Mine, force=True)
    steps = [dict(type="MyLoadAnnotations"), dict(type=Mine)]
    assert with_own_reading(dict(type="ADE20KDataset", pipeline=steps))["pipeline"] == steps


@pytest.mark.parametrize("step, message", [
    (dict(IMAGE, color_type="grayscale"), r"color_type='grayscale'\).*expected 'color'"),
    (dict(IMAGE, color_type="unchanged"), r"color_type='unchanged'"),
    (dict(IMAGE, imdecode_backend="tifffile"), r"LoadImageFromFile\(imdecode_backend='tifffile'\)"),
    (dict(LABEL, imdecode_backend="tifffile"), r"LoadAnnotations\(imdecode_backend='tifffile'\)"),
    (dict(IMAGE, ignore_empty=True), r"ignore_empty=True\): this is not honoured"),
    (dict(IMAGE, file_client_args=dict(backend="disk")), r"file_client_args="),
    (dict(LABEL, with_bbox=True), r"LoadAnnotations\(with_bbox=True\)"),
])  # fmt: skip
def test_options_that_cannot_be_honoured_are_refused(config, step, message):
    steps = [step, LABEL] if step["type"] == IMAGE["type"] else [IMAGE, step]
    with pytest.raises(UserError, match=message):
        source_from_config(config(steps))


def test_options_that_change_nothing_and_file_backends_are_kept(folder, config):
    backend = dict(backend="local")
    steps = [dict(IMAGE, imdecode_backend="turbojpeg", ignore_empty=False, to_float32=True, backend_args=backend),
             dict(LABEL, imdecode_backend="cv2", reduce_zero_label=False, backend_args=backend)]  # fmt: skip
    own, plain = source_from_config(config(steps))[2], source_from_config(config())[2]
    assert np.array_equal(own.image, plain.image) and np.array_equal(own.label, plain.label)
    replaced = with_own_reading(dict(pipeline=steps))["pipeline"]
    assert [step["backend_args"] for step in replaced] == [backend, backend]


def test_files_behind_a_backend_go_through_the_same_reading(folder, config, monkeypatch):
    """A remote store, by a backend of mmengine that finds its files under another name."""
    from mmengine.fileio import LocalBackend, register_backend

    class Renaming(LocalBackend):
        def get(self, filepath):
            return super().get(str(filepath).replace("store://", ""))

    register_backend("renaming", Renaming, force=True, prefixes="store")
    from segrobust.datasets.loading import ReadImage, ReadLabel

    info = dict(
        img_path=f"store://{folder}/images/test/img_1.png", seg_map_path=f"store://{folder}/labels/test/img_1.png"
    )
    info = ReadLabel()(ReadImage()(info))
    assert np.array_equal(info["img"][..., ::-1], np.asarray(Image.open(folder / "images/test/img_1.png")))
    assert np.array_equal(info["gt_seg_map"], np.asarray(Image.open(folder / "labels/test/img_1.png")))


TTA = dict(type="TestTimeAug", transforms=[[dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
                                           [LABEL], [PACK]])  # fmt: skip
OLD_TTA = dict(type="MultiScaleFlipAug", img_scale=(10, 8), flip=False, transforms=[LABEL, PACK])


@pytest.mark.parametrize("steps, message", [
    ([IMAGE, OLD_TTA], "the test pipeline has MultiScaleFlipAug: answers averaged over views"),
    ([IMAGE, LABEL, dict(type="RandomFlip", prob=0.5)], "has RandomFlip, which changes images by chance.*remove it"),
    ([IMAGE, LABEL, dict(type="RandomFlip", prob=[0.3, 0.3], direction=["horizontal", "vertical"])], "RandomFlip"),
    ([IMAGE, LABEL, dict(type="RandomFlip")], "RandomFlip"),
    ([IMAGE, LABEL, dict(type="RandomFlip", prob=1.0, direction=["horizontal", "vertical"])], "RandomFlip"),
    ([IMAGE, LABEL, dict(type="RandomCrop", crop_size=(4, 4))], "RandomCrop"),
    ([IMAGE, LABEL, dict(type="mmseg.PhotoMetricDistortion")], "PhotoMetricDistortion"),
    ([IMAGE, dict(type="RandomResize", scale=(8, 8), ratio_range=(0.5, 2.0)), LABEL], "RandomResize"),
    ([IMAGE, LABEL, dict(type="RandomApply", transforms=[dict(type="CLAHE")], prob=0.5)], "RandomApply"),
    ([IMAGE, LABEL, dict(type="RandomCutOut", prob=1, n_holes=1, cutout_shape=(2, 2))], "RandomCutOut"),
    ([IMAGE, LABEL, dict(type="BioMedical3DRandomFlip", prob=0.5, axes=(0,))], "BioMedical3DRandomFlip"),
])  # fmt: skip
def test_a_test_pipeline_neither_averages_nor_throws_dice(config, steps, message):
    with pytest.raises(UserError, match=message) as caught:
        source_from_config(config(steps))
    assert "\n" not in str(caught.value)
    wrapped = dict(dataset=dict(type="RepeatDataset", times=1, dataset=config(steps)["test_dataloader"]["dataset"]))
    with pytest.raises(UserError, match=message):
        source_from_config(dict(test_dataloader=wrapped))


def test_steps_of_chance_that_are_certain_may_stay(folder, config):
    plain = source_from_config(config([IMAGE, LABEL]))[3]
    never = source_from_config(config([IMAGE, LABEL, dict(type="RandomFlip", prob=0.0)]))[3]
    always = source_from_config(config([IMAGE, LABEL, dict(type="RandomFlip", prob=1.0)]))[3]
    assert np.array_equal(never.image, plain.image)
    assert np.array_equal(always.image, plain.image.flip(-1)) and np.array_equal(always.label, plain.label.flip(-1))


def test_entries_for_averaging_beside_the_pipeline_are_ignored(config):
    extra = dict(tta_model=dict(type="SegTTAModel"), tta_pipeline=[IMAGE, TTA])
    assert len(source_from_config(config([IMAGE, LABEL]) | extra)) == 7


def test_a_data_set_without_a_pipeline(config):
    own = config()
    for pipeline in ([], None):
        own["test_dataloader"]["dataset"]["pipeline"] = pipeline
        with pytest.raises(UserError, match=r"'ImageLabelFolder' has no pipeline; add pipeline=\[dict\(type='LoadPair"):
            source_from_config(own)


def test_a_pipeline_that_does_not_pack(config):
    own = config()
    own["test_dataloader"]["dataset"]["pipeline"].pop()
    with pytest.raises(UserError, match=r"end it with dict\(type='PackSegInputs'\)"):
        source_from_config(own)[0]


def test_training_reads_files_in_the_same_way(folder, config):
    """mmengine's own data loader, over a 16-bit image whose upper byte is a shade too dark, and over a 16-bit label."""
    values = np.full((8, 10, 3), 25599, np.uint16)  # 99.6 of 255
    values[0] = 65535
    write_pair(folder, "img_0", np.zeros((8, 10, 3), np.uint8), np.zeros((8, 10), np.uint8))
    cv2.imwrite(str(folder / "images/test/img_0.png"), values)
    dataset = config([IMAGE, LABEL])["test_dataloader"]["dataset"]
    loader = dict(batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False), dataset=dataset)
    build = TrainRunner.build_dataloader
    batch = next(iter(build(loader, seed=0)))
    assert set(batch["inputs"][0][:, 1:].unique().tolist()) == {100}
    Image.fromarray(np.full((8, 10), 256, np.uint16)).save(folder / "labels/test/img_0.png")
    with pytest.raises(UserError, match=r"img_0\.png holds the id 256"):
        next(iter(build(loader, seed=0)))


def test_a_training_uses_that_reading(tmp_path):
    from segrobust.commands.training import train
    from tests.hooks.toys import toy_config

    assert isinstance(train(toy_config(iters=1), work_dir=tmp_path), TrainRunner)
