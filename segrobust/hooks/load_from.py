"""``load_from`` read as evaluation reads a checkpoint: every key, shape and number fits, or training does not begin.

To fine-tune for other classes, name what starts as without that file (from random weights, or those of its own
``init_cfg``); everything else must fit::

    load_from = "cityscapes.pth"
    load_from_except = ["decode_head.conv_seg", "auxiliary_head.conv_seg"]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from segrobust.core.errors import UserError
from segrobust.models.adapters.mmseg import unwrapped
from segrobust.models.checkpoint.loading import load_state_dict, load_strict
from segrobust.models.checkpoint.naming import renamed
from segrobust.models.trainable import TrainableSegmenter
from segrobust.recipes.pairs import PairedSegmentor


@HOOKS.register_module()
class LoadFromHook(Hook):
    """Loads ``load_from`` strictly where mmengine would leave random weights in place; a resume is not touched.

    Args:
        leave_out: names of modules (or tensors) of the model that keep the weights they have.

    Raises:
        UserError: before training: the file does not fit, holds NaN, or a name is no part of the model.
    """

    priority = "HIGHEST"  # before EMAHook copies the weights

    def __init__(self, leave_out: str | Sequence[str] = ()) -> None:
        self.leave_out = listed_parts(leave_out)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if runner._resume:
            return
        model = unwrapped(runner.model)
        self.load(model, runner._load_from)
        checkpoint["state_dict"] = model.state_dict()

    def load(self, model: nn.Module, source: str) -> None:
        """Load the file, except for what is left out."""
        trainable = isinstance(model, TrainableSegmenter)
        load_weights = model.load_weights if trainable else partial(load_strict, model)
        own = model.state_dict()
        for name in self.leave_out:
            if not any(_inside(key, name) for key in own):
                raise UserError(f"load_from_except: the model has no {name!r}; its tensors have names such as "
                                f"{next(reversed(own))!r}")  # fmt: skip
        given = renamed(own, load_state_dict(source, envelope=model.segmenter.envelope if trainable else None))
        given = model.completed(given) if isinstance(model, PairedSegmentor) else given
        left_out = {key for key in {**own, **given} if any(_inside(key, name) for name in self.leave_out)}
        given = {key: value for key, value in given.items() if key not in left_out}
        other = next((key for key in given if key in own and given[key].shape != own[key].shape), None)
        try:
            load_weights(given | {key: own[key] for key in left_out & own.keys()}, source)
        except UserError as error:
            way_out = other and (f"; to train this part anew from random weights, set load_from_except="
                                 f"['{other.rpartition('.')[0]}']")  # fmt: skip
            raise UserError(f"load_from: {error}{way_out or ''}") from error


def listed_parts(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names in ``load_from_except``, where one may stand alone; UserError: something else than names."""
    names = [given] if isinstance(given, str) else given or ()
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UserError(f"load_from_except: expected names such as 'decode_head.conv_seg', got {given!r}")
    return tuple(names)


def _inside(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")
