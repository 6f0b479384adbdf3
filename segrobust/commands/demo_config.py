"""The training configs of ``segrobust demo``: a model that learns the synthetic scenes in about a minute on two cores.

config = demo_config(root="work_dirs/demo/scenes", work_dir="work_dirs/demo/robust", adversarial=True)
config["load_from"] = "work_dirs/demo/standard/iter_600.pth"
Runner.from_cfg(Config(config)).train()
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segrobust.datasets.scenes import CLASSES, write_scenes

SIZE = (64, 96)
COUNTS = dict(train=240, val=16, test=32)
EPS = "4/255"
STANDARD_ITERS = 600
ADVERSARIAL_ITERS = 400


def write_demo_scenes(root: str | Path) -> Path:
    """Write the demo's scenes below ``root``, or leave them where they are already there."""
    return write_scenes(root, **COUNTS, size=SIZE)


def demo_config(root: str | Path, work_dir: str | Path, adversarial: bool) -> dict[str, Any]:
    """A complete mmengine config on the scenes in ``root``.

    Args:
        root: what `write_demo_scenes` wrote.
        work_dir: where checkpoints and logs go.
        adversarial: train with TsallisPGD in the loop, to be started from standard weights (``load_from``).
    """
    iters = ADVERSARIAL_ITERS if adversarial else STANDARD_ITERS
    hooks = [dict(type="ReseedHook"), dict(type="EMAHook", momentum=0.02)]
    if adversarial:
        attack = dict(type="TsallisPGD", eps=EPS, steps=3, optimiser="pgd", radius_reduction=False, keep="last")
        hooks.append(dict(type="AdversarialTrainingHook", attack=attack, eps_warmup=iters // 8))
    return dict(
        default_scope="mmseg",
        work_dir=str(work_dir),
        model=_model(),
        **_data(root),
        **_schedule(iters, peak=1e-3 if adversarial else 2e-3),
        custom_hooks=hooks,
        env_cfg=dict(mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0)),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
        load_from=None,
        resume=False,
    )


def _model() -> dict[str, Any]:
    norm_cfg = dict(type="BN", requires_grad=True)
    return dict(
        type="EncoderDecoder",
        data_preprocessor=dict(
            type="SegDataPreProcessor", mean=[127.5] * 3, std=[64.0] * 3, bgr_to_rgb=True, seg_pad_val=255, size=SIZE
        ),
        backbone=dict(
            type="ResNetV1c",
            depth=18,
            base_channels=16,
            stem_channels=16,
            out_indices=(0, 1, 2, 3),
            dilations=(1, 1, 1, 1),
            strides=(1, 2, 2, 2),
            norm_cfg=norm_cfg,
        ),
        neck=dict(type="FPN", in_channels=[16, 32, 64, 128], out_channels=32, num_outs=4),
        decode_head=dict(
            type="FPNHead",
            in_channels=[32] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=[4, 8, 16, 32],
            channels=32,
            dropout_ratio=0.0,
            num_classes=len(CLASSES),
            norm_cfg=norm_cfg,
            align_corners=False,
            loss_decode=dict(type="CrossEntropyLoss"),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode="whole"),
    )


def _data(root: str | Path) -> dict[str, Any]:
    load, pack = dict(type="LoadPair", cache=True), dict(type="PackSegInputs")
    augment = [dict(type="RandomFlip", prob=0.5), dict(type="PhotoMetricDistortion")]

    def dataset(split: str, pipeline: list[dict]) -> dict[str, Any]:
        return dict(type="SyntheticScenes", data_root=str(root), split=split, pipeline=pipeline)

    def loader(split: str) -> dict[str, Any]:
        return dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            dataset=dict(**dataset(split, [load, pack]), test_mode=True),
        )

    return dict(
        train_dataloader=dict(
            batch_size=8,
            num_workers=0,
            sampler=dict(type="SeededInfiniteSampler"),
            dataset=dict(type="SeededDataset", dataset=dataset("train", [load, *augment, pack])),
        ),
        val_dataloader=loader("val"),
        test_dataloader=loader("test"),
        val_evaluator=dict(type="IoUMetric", iou_metrics=["mIoU"]),
        test_evaluator=dict(type="IoUMetric", iou_metrics=["mIoU"]),
    )


def _schedule(iters: int, peak: float) -> dict[str, Any]:
    warmup = iters // 10
    return dict(
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="AdamW", lr=peak, weight_decay=0.02),
            clip_grad=dict(max_norm=5.0),
        ),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=warmup),
            dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=warmup, end=iters),
        ],
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=iters, val_interval=iters),
        val_cfg=dict(type="ValLoop"),
        test_cfg=dict(type="TestLoop"),
        default_hooks=dict(
            timer=dict(type="IterTimerHook"),
            logger=dict(type="LoggerHook", interval=25, log_metric_by_epoch=False),
            param_scheduler=dict(type="ParamSchedulerHook"),
            checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=iters // 4, max_keep_ckpts=1),
            sampler_seed=dict(type="DistSamplerSeedHook"),
        ),
    )
