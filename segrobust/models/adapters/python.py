"""A network that a Python function of the user's makes; its weights come from a checkpoint.

For example::

    model = dict(type="PythonSegmenter", factory="my_net.py:build", kwargs=dict(num_classes=12), num_classes=11,
                 keep_classes=range(11), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from segrobust.core.errors import UserError, first_line
from segrobust.core.own_code import files_of, own_function
from segrobust.models.registry import register_segmenter
from segrobust.models.segmenter import Segmenter, WrappedNet


@register_segmenter
class PythonSegmenter(WrappedNet):
    """Whatever ``factory(**kwargs)`` returns. The file is a program and runs; name only those you trust.

    Args:
        factory: ``FILE.py:FUNCTION``, the file relative to the config's folder or the current one, or
            ``package.module:FUNCTION``.
        kwargs: what the function is called with.
        envelope: the entry of the checkpoint that holds the weights (``a.b`` for one inside another), where it is not
            found by itself.
        folder: where a relative file is looked for first.
        options: those of :meth:`Segmenter.wrap`, ``num_classes`` among them.

    Raises:
        UserError: no such file or function, it fails, or it returns no ``torch.nn.Module``.
    """

    padding_advice = "set size_divisor={divisor} in the config's model (--size-divisor {divisor})"

    def __init__(
        self,
        factory: str,
        kwargs: Mapping[str, Any] | None = None,
        *,
        envelope: str | None = None,
        folder: Path | None = None,
        **options: Any,
    ) -> None:
        if "num_classes" not in options:
            raise UserError(f"{factory}: num_classes is missing: how many classes do the labels have?")
        net, made_by = _made(factory, dict(kwargs or {}), folder)
        super().__init__(net, **options)
        self.envelope, self.made_by = envelope, made_by

    @classmethod
    def built(cls, options: Mapping[str, Any], folder: Path | None = None) -> Segmenter:
        return cls(**options, folder=folder)


def _made(factory: str, kwargs: dict[str, Any], folder: Path | None) -> tuple[nn.Module, dict[str, str]]:
    """The network, and the digests of the modules where its function was found and written."""
    if not isinstance(factory, str):
        raise UserError(f"factory: expected text such as my_net.py:build, got {factory!r}")
    try:
        module, function = own_function(factory, [folder] if folder else [])
    except UserError as error:
        raise UserError(f"factory: {error}") from error
    try:
        net = function(**kwargs)
    except Exception as error:  # a user's program fails in its own ways
        call = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        raise UserError(
            f"factory: {factory} called with ({call}): {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(net, nn.Module):
        raise UserError(f"factory: {factory} returned a {type(net).__name__}; expected a torch.nn.Module")
    return net, files_of(module, function)
