"""The toy segmentor with DDC-AT's branches, and a config that trains it."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.registry import MODELS

from segrobust.recipes.ddcat import DDCAT
from tests.hooks.toys import ToySegmentor, toy_config


@MODELS.register_module()
class ToyDDCAT(ToySegmentor, DDCAT):
    """With what observers read of a toy."""


def branched(*hooks: dict, dropout: float = 0.0, **options) -> Config:
    """A toy training with branches and an attack; without dropout, so that nothing but an attack changes a
    prediction."""
    config = toy_config(*hooks, **options)
    config.model.type = "ToyDDCAT"
    config.model.decode_head.dropout_ratio = dropout
    return config
