"""Folders as trainings leave them, with made-up numbers."""

from __future__ import annotations

from PIL import Image

from segrobust.report.training import load_trainings

CONFIG = """custom_hooks = [
    dict(attack=dict(eps='4/255', steps=3, type='CEPGD'), type='AdversarialTrainingHook'),
    dict(attack=dict(eps='4/255', steps=10, type='TsallisPGD'), num_images=25, type='RobustValidationHook'),
]
train_dataloader = dict(batch_size=8)
work_dir = '/home/someone/x'
"""


def training_line(iteration, loss, **more):
    return {"lr": 0.001, "loss": loss, "time": 2.0, "adv_time": 1.5, "adv_eps": 4 / 255, **more, "iter": iteration,
            "step": iteration}  # fmt: skip


def validation_line(step, clean, robust=None, **more):
    scores = {"mIoU": clean, "aAcc": clean + 20} | ({} if robust is None else {"robust/mIoU": robust})
    return scores | ({} if robust is None else {"robust/aAcc": robust + 20}) | more | {"time": 0.1, "step": step}


RISING = (
    training_line(50, 0.9), training_line(100, 0.8), validation_line(100, 40.0, 20.0),
    training_line(150, 0.7), training_line(200, 0.6), validation_line(200, 45.0, 30.0),
    training_line(250, 0.5), training_line(300, 0.4), validation_line(300, 50.0, 28.0),
)  # fmt: skip


def loaded(folder):
    (training,) = load_trainings([folder])
    return training


def told(time, text, level="INFO"):
    return f"2026/11/27 {time} - mmengine - {level} - {text}\n"


LOG = "".join([
    told("01:00:00", "Hooks will be executed in the following order:"),
    "  a continuation\n",
    told("01:10:00", "validation under TsallisPGD took 60.0 s"),
    told("01:20:00", "validation under TsallisPGD took 90.5 s"),
    told("01:30:00", "robust validation skipped after 300 iterations"),
    told("01:40:00", "catastrophic overfitting in iteration 150: CEPGD at eps 0.0157 makes ...", "WARNING"),
    told("02:00:00", "The prefix is not set in metric class IoUMetric.", "WARNING"),
])  # fmt: skip


def picture(folder, iteration, number=0, kinds=("image", "attacked", "clean", "robust"), side=8):
    place = folder / "pictures" / f"iter_{iteration}"
    place.mkdir(parents=True, exist_ok=True)
    for shade, kind in enumerate(kinds):
        Image.new("RGB", (side, side), (iteration % 256, 40 * shade, number)).save(place / f"{number}-{kind}.png")
