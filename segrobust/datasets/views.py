"""Test-time augmentation in a config's pipeline: the first view of each image, since averages are not attacked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import prod
from typing import Any

from segrobust.core.errors import UserError
from segrobust.datasets.pipeline import type_name

LOGGER = logging.getLogger(__name__)


def with_first_views(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a data set's config, however wrapped, with the first of each list of choices in ``TestTimeAug``.

    That is the first scale, without a flip where that comes first, as mmseg's own configs have it; it is logged.

    Raises:
        UserError: ``TestTimeAug`` without such lists.
    """
    return _replaced(dataset)


def _replaced(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _replaced(value) for key, value in node.items()}
    if isinstance(node, list | tuple) and any(isinstance(value, Mapping | list | tuple) for value in node):
        return type(node)(step for value in node for step in _steps(value))
    return node


def _steps(step: Any) -> list[Any]:
    if not isinstance(step, Mapping) or type_name(step) != "TestTimeAug":
        return [_replaced(step)]
    choices = step.get("transforms")
    if not isinstance(choices, list | tuple) or not all(isinstance(one, list | tuple) and one for one in choices):
        raise UserError("TestTimeAug: expected transforms=[[step, ...], ...], a list of choices per step")
    first = [one[0] for one in choices]
    LOGGER.warning(
        "the test pipeline has TestTimeAug: answers averaged over views of an image are not attacked here, so of %d "
        "views the first is taken (%s)", prod(map(len, choices)), ", ".join(map(_shown, first)),
    )  # fmt: skip
    return [_replaced(one) for one in first if not _never(one)]


def _never(step: Any) -> bool:
    """A flip of probability 0, which needs no step."""
    return type_name(step) == "RandomFlip" and isinstance(step, Mapping) and step.get("prob") == 0


def _shown(step: Any) -> str:
    options = {key: value for key, value in step.items() if key != "type"} if isinstance(step, Mapping) else {}
    return type_name(step) + (f"({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else "")
