"""What is told of a network of the user's own: on the command line beside FILE.py:FUNCTION, in Python beside a module.

segrobust evaluate my_net.py:build weights.pth --data FOLDER --num-classes 11
segrobust evaluate hf:FOLDER --data FOLDER          (smp:FOLDER: the folder tells what a network's options tell)
evaluate(net, data, num_classes=11, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

Imports no torch, so that the command line can refuse a wrong value at once.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segrobust.core.errors import UserError
from segrobust.core.files import read_json
from segrobust.core.options import Options, one_of, option, whole
from segrobust.core.own_code import names_function
from segrobust.datasets.classes import check_class_order
from segrobust.datasets.folders import CLASSES_FILE, folder_data
from segrobust.datasets.protocols import PROTOCOLS
from segrobust.models.saved import SavedModel, names_saved, saved_model

if TYPE_CHECKING:
    from segrobust.commands.inputs import Inputs


LOGGER = logging.getLogger(__name__)
_RANGE = re.compile(r"(\d+)-(\d+)")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"expected a number, got {value!r}") from None


def _channel(value: Any) -> int | str:
    """A channel, or text such as ``0-10``, which stands for several."""
    return value if isinstance(value, str) and _RANGE.fullmatch(value) else whole(0)(value)


def _channels(value: int | str) -> Iterable[int]:
    ends = _RANGE.fullmatch(str(value))
    return range(int(ends[1]), int(ends[2]) + 1) if ends else [value]


def _id(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"-?\d+", str(value)):
        raise UserError(f"expected the id of void pixels, such as 255, got {value!r}")
    return int(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Network(Options):
    """The options of :meth:`segrobust.Segmenter.wrap`; those that are not given are at its defaults."""

    num_classes: int | None = option(None, "how many classes the labels have", whole(2), metavar="K")
    mean: tuple[float, ...] = option(
        (), "subtracted from the input, per channel (default: nothing)", _number, metavar="M", many="[0.4, 0.4, 0.4]"
    )
    std: tuple[float, ...] = option(
        (), "what it is then divided by, per channel (default: 1)", _number, metavar="S", many="[0.2, 0.2, 0.2]"
    )
    channel_order: str | None = option(
        None, "of the network's input (default: rgb)", one_of("rgb", "bgr"), metavar="{rgb,bgr}"
    )
    input_range: int | None = option(
        None, "largest value of the network's input, before mean and std (default: 1)", whole(1), metavar="{1,255}"
    )
    keep_classes: tuple[int, ...] = option(
        (), "the outputs that are the classes, in their order, such as 0-10 (default: all)", _channel, metavar="N",
        many="[0, 1, 2]",
    )  # fmt: skip
    size_divisor: int | None = option(
        None, "pad images to multiples of this inside the model (default: 1)", whole(1), metavar="N"
    )
    threshold: float | None = option(
        None, "of a network with one sigmoid output for two classes (default: 0.5)", _number, metavar="P"
    )
    ignore_index: int | None = option(None, "id of void pixels in the labels (default: 255)", _id, metavar="ID")
    class_names: tuple[str, ...] = option(
        (), "in the order of the ids, or a text file with one per line (default: classes.json of the data, or numbers)",
        metavar="NAME", many='["road", "car"]',
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = [number for one in self.keep_classes for number in _channels(one)]
        object.__setattr__(self, "keep_classes", tuple(channels))
        if len(self.class_names) == 1 and Path(self.class_names[0]).is_file():
            names = Path(self.class_names[0]).read_text(encoding="utf-8").splitlines()
            object.__setattr__(self, "class_names", tuple(name.strip() for name in names if name.strip()))
        if self.num_classes is None and self.class_names:
            object.__setattr__(self, "num_classes", len(self.class_names))

    def given(self) -> dict[str, Any]:
        """Those that were given, by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value not in (None, ())}


def names_network(config: str) -> bool:
    """Whether it is a network of the user's own, or a model that another library saved, and no config."""
    return names_function(config) or names_saved(config)


def check_network(inputs: Inputs, network: Network) -> None:
    """Refuse what is missing beside FILE.py:FUNCTION or a saved model, and what has no place beside a config.

    Raises:
        UserError: told in one line.
    """
    if not names_network(inputs.config):
        if told := [*network.given(), *(name for name in ("data", "split") if getattr(inputs, name) is not None)]:
            flag = f"--{told[0].replace('_', '-')}"
            advice = "in test_dataloader" if told[0] in ("data", "split") else "in its model=dict(...)"
            raise UserError(f"{flag} goes with FILE.py:FUNCTION; the config {inputs.config} says it {advice}")
        return
    if inputs.protocol is not None:
        _check_protocol(inputs, network)
        return
    if inputs.data_root is not None:
        raise UserError(
            "--data-root goes with --protocol or a config; beside FILE.py:FUNCTION alone, say --data FOLDER"
        )
    if inputs.data is None:
        raise UserError(f"{inputs.config} needs --data FOLDER, with the folders images and labels in it")
    names = network.class_names or _stored_names(inputs.data)
    folder_data(inputs.data, inputs.split)
    if names_saved(inputs.config):
        return _check_saved(inputs.config, saved_model(inputs.config), network, names)
    if network.num_classes is None and not names:
        raise UserError(f"{inputs.config} needs --num-classes K (or --class-names, or {CLASSES_FILE} in the data)")
    if names and network.num_classes not in (None, len(names)):
        raise UserError(f"--num-classes {network.num_classes}, but there are {len(names)} class names")


def _check_protocol(inputs: Inputs, network: Network) -> None:
    """Refuse what a protocol says itself, and one without its data."""
    for name, value in (("data", inputs.data), ("split", inputs.split), ("ignore-index", network.ignore_index)):
        if value is not None:
            raise UserError(f"--{name}: --protocol {inputs.protocol} says it; leave it out, and give --data-root DIR")
    if inputs.data_root is None:
        raise UserError(f"--protocol {inputs.protocol} needs --data-root DIR beside {inputs.config}")
    if names_saved(inputs.config):
        _check_saved(inputs.config, saved_model(inputs.config), network, network.class_names)


def _check_saved(config: str, model: SavedModel, network: Network, names: Sequence[str]) -> None:
    """Refuse options that the folder answers, and other classes than the model's."""
    count, of_labels = len(model.class_names), ("num_classes", "class_names", "ignore_index")
    if model.prepares and (told := [name for name in network.given() if name not in of_labels]):
        raise UserError(f"--{told[0].replace('_', '-')}: the folder {model.folder} tells it; leave it out")
    told_count = len(names) or network.num_classes or count
    if told_count != count:
        reduced = "; the names must leave out what label 0 is, which is void" if model.reduce_labels else ""
        raise UserError(f"{config} has {count} classes, but {told_count} are told{reduced}")
    check_class_order(names or model.class_names, model.class_names, f"the model {config}")


def network_config(inputs: Inputs, network: Network) -> dict[str, Any]:
    """The config that a network or a saved model stands for, with its options; :func:`check_network` has seen them."""
    if inputs.protocol is not None:  # whose data name the classes
        return _protocols_config(inputs, network)
    if names_saved(inputs.config):
        return _saved_config(inputs, network, saved_model(inputs.config))
    names = network.class_names or _stored_names(inputs.data)
    count = network.num_classes or len(names)
    told = {**network.given(), "num_classes": count}
    names = tuple(names) or tuple(f"class_{index}" for index in range(count))
    void = {} if network.ignore_index is None else {"ignore_index": network.ignore_index}
    model = {"type": "PythonSegmenter", "factory": inputs.config, **told, "class_names": names}
    return {"model": model, **folder_data(inputs.data, inputs.split, names, **void)}


def _protocols_config(inputs: Inputs, network: Network) -> dict[str, Any]:
    protocol = PROTOCOLS[inputs.protocol]
    if names_saved(inputs.config):
        model = _saved_settings(saved_model(inputs.config), network)
    else:
        told = {"num_classes": protocol.num_classes, **network.given()}
        model = {"type": "PythonSegmenter", "factory": inputs.config, **told}
    return {"model": model, **protocol.loaders(inputs.data_root)}


def _saved_settings(model: SavedModel, network: Network) -> dict[str, Any]:
    given = {name: value for name, value in network.given().items() if name != "num_classes"}
    return {"type": model.segmenter, "folder": str(model.folder.resolve()), **given}


def _saved_config(inputs: Inputs, network: Network, model: SavedModel) -> dict[str, Any]:
    names = network.class_names or _stored_names(inputs.data) or model.class_names
    if model.reduce_labels:
        LOGGER.warning(
            "%s was trained with do_reduce_labels: label 0 becomes void and every other one less; if your labels are "
            "such already, add --cfg-options test_dataloader.dataset.reduce_zero_label=False", inputs.config
        )  # fmt: skip
    void = {} if network.ignore_index is None else {"ignore_index": network.ignore_index}
    settings = {**_saved_settings(model, network), "class_names": tuple(names)}
    data = folder_data(inputs.data, inputs.split, names, reduce_labels=model.reduce_labels, **void)
    return {"model": settings, **data}


def _stored_names(folder: Path) -> tuple[str, ...]:
    """The names in ``classes.json``, where there are any; ``ImageLabelFolder`` tells what is wrong in it."""
    file = folder / CLASSES_FILE
    content = read_json(file) if file.is_file() else {}
    names = content.get("classes") if isinstance(content, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()
