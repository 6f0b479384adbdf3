"""The runner of ``segrobust train``: mmengine's, with the model made ready before it is wrapped, and our reading."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner
from torch import nn

from segrobust.core.errors import UserError
from segrobust.datasets.pipeline import with_own_reading
from segrobust.hooks.full_disk import raise_where_full
from segrobust.models.load import own_segmenter
from segrobust.models.network_io import in_channels_last
from segrobust.models.trainable import build_trainable

SMALL_BATCH = 4  # images per process up to which the statistics of batch normalisation are a poor estimate


class TrainRunner(Runner):
    """Trains segrobust's segmenters as well as mmseg's models, in channels-last order before DDP takes the order of
    its gradients from the model.

    Raises:
        UserError: SyncBN on several CPU processes, which torch does not have.
    """

    def build_logger(self, *given: Any, **options: Any) -> logging.Logger:
        logger = super().build_logger(*given, **options)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                raise_where_full(handler)
        return logger

    def build_model(self, model: nn.Module | dict[str, Any]) -> nn.Module:
        own = isinstance(model, Mapping) and own_segmenter(model) is not None
        return build_trainable(self.cfg) if own else super().build_model(model)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        model = in_channels_last(model)
        if self.distributed:
            model = self._checked_norms(model)
        return super().wrap_model(model_wrapper_cfg, model)

    @staticmethod
    def build_dataloader(dataloader: Any, *args: Any, **options: Any) -> Any:
        """With segrobust's reading of files; the config that is stored stays as it is."""
        if isinstance(dataloader, Mapping) and isinstance(dataloader.get("dataset"), Mapping):
            dataloader = {**dataloader, "dataset": with_own_reading(dataloader["dataset"])}
        return Runner.build_dataloader(dataloader, *args, **options)

    def _checked_norms(self, model: nn.Module) -> nn.Module:
        synchronised = self.cfg.get("sync_bn") or any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())
        if synchronised and not torch.cuda.is_available():
            if self.world_size > 1:
                raise UserError("SyncBN needs a GPU for each process; on CPUs set norm_cfg=dict(type='BN'), or start "
                                "one process, in which SyncBN is BN")  # fmt: skip
            self.cfg.sync_bn = None
            return revert_sync_batchnorm(model)
        plain = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())
        images = self._train_dataloader.get("batch_size", 1) if isinstance(self._train_dataloader, dict) else None
        if plain and not synchronised and self.world_size > 1 and images and images <= SMALL_BATCH:
            self.logger.warning("batch normalisation sees a batch of %d in each of %d processes; SyncBN (on GPUs) "
                                "takes them together", images, self.world_size)  # fmt: skip
        return model
