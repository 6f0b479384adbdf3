"""Networks of published robust checkpoints behind the contract; their names are in ``segrobust.models.published``.

For example::

    model = dict(type="PaperSegmenter", arch="upernet_convnext_t_cvst", num_classes=21)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segrobust.models.registry import register_segmenter
from segrobust.models.segmenter import WrappedNet


@register_segmenter
class PaperSegmenter(WrappedNet):
    """A network of ``segrobust.models.papers`` with random weights, under the names that published files have.

    Args:
        arch: for instance ``upernet_convnext_t_cvst`` or ``pspnet50_deepstem``.
        mean, std: in units of [0, 1] images, as the checkpoint was trained; None for raw pixels. Neither keys nor
            shapes tell which, so a published checkpoint is best loaded by its name.
        options: further ones of :meth:`Segmenter.wrap`.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        from segrobust.models.papers.architectures import build_network

        net = build_network(arch, num_classes)
        super().__init__(net, mean, std, num_classes=num_classes, **{"name": arch, **options})
