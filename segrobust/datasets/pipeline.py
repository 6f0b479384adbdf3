"""What a config's data pipelines become: one reading of files for all; no chance or averaging in a test pipeline."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from segrobust.core.errors import UserError

if TYPE_CHECKING:
    from mmengine.registry import Registry

HONOURED = {
    "LoadImageFromFile": ("to_float32", "backend_args"),
    "LoadAnnotations": ("reduce_zero_label", "backend_args"),
}
NO_CHANGE = {  # decoders differ by the rounding of a JPEG, and files with an orientation are refused either way
    "imdecode_backend": ("cv2", "pillow", "turbojpeg"),
    "color_type": ("color", "color_ignore_orientation"),
    "ignore_empty": (False,),
}
OWNERS = ("mmcv", "mmseg", "segrobust")
TEST_TIME = ("TestTimeAug", "MultiScaleFlipAug")
RANDOM = ("PhotoMetricDistortion", "Albu", "BioMedicalGaussianNoise", "BioMedicalGaussianBlur")
PLAIN = ("LoadPair", "LoadImageFromFile", "LoadAnnotations", "PackSegInputs", "Resize", "ResizeShortestEdge")
MOVING = ("Crop", "Pad", "Flip", "Rot", "Mosaic")
EXAMPLE = "pipeline=[dict(type='LoadPair'), dict(type='PackSegInputs')]"


def with_own_reading(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a data set's config, however wrapped, in which segrobust reads the files in place of mmcv and mmseg.

    Raises:
        UserError: an option of theirs that cannot be honoured.
    """
    return _replaced(dataset, {})


def _replaced(node: Any, known: dict[str, Any]) -> Any:
    if isinstance(node, Mapping):
        known = known | _classes_of(node)
        return {key: _replaced(value, known) for key, value in node.items()}
    if isinstance(node, list | tuple) and any(isinstance(value, Mapping | list | tuple) for value in node):
        steps = [_replaced(value, known) for value in node]
        return type(node)(_step(step, steps[at + 1 :], known) for at, step in enumerate(steps))
    return node


def _step(step: Any, later: list, known: dict[str, Any]) -> Any:
    kind = _loader(step)
    if kind is None:
        return step
    checked = all(_is_known(one) for one in later)  # a step of the user's own may yet turn ids into classes
    if kind == "LoadPair":
        return {**step, **({key: value for key, value in known.items() if key not in step} if checked else {})}
    if kind == "LoadImageFromFile":
        return {"type": "ReadImage", **_honoured(kind, step)}
    return {"type": "ReadLabel", "checked": checked, **known, **_honoured(kind, step)}


def _honoured(kind: str, step: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a loading step that ours has too; UserError: another one that says how to read."""
    for option, value in step.items():
        same = NO_CHANGE.get(option, ())
        if option not in ("type", *HONOURED[kind]) and value not in (None, *same):
            advice = f"expected {same[0]!r}" if same else "leave it out"
            raise UserError(f"{kind}({option}={value!r}): this is not honoured here; {advice}")
    return {option: step[option] for option in HONOURED[kind] if option in step}


def _classes_of(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """How many classes a data set has and which id is void, where its config or its type says so."""
    known = {} if dataset.get("ignore_index") is None else {"ignore_index": dataset["ignore_index"]}
    classes = metainfo_of(dataset).get("classes")
    return known | ({"num_classes": len(classes)} if isinstance(classes, list | tuple) else {})


def check_test_pipeline(dataset: Mapping[str, Any]) -> None:
    """Raise a UserError where test data have no pipeline, or one that augments, by chance or for averaging."""
    pipelines = list(_pipelines(dataset))
    if not pipelines:
        raise UserError(f"the test data set {dataset.get('type')!r} has no pipeline; add {EXAMPLE}")
    for pipeline in pipelines:
        check_test_steps(pipeline)


def check_test_steps(steps: Iterable[Any]) -> None:
    """Raise a UserError where one of a test pipeline's steps, in a config or built, augments."""
    for step in steps:
        name = type_name(step)
        if name in TEST_TIME:
            raise UserError(f"the test pipeline has {name}: answers averaged over views of an image are not attacked "
                            f"here; use {EXAMPLE}, or the loading, resizing and packing steps alone")  # fmt: skip
        if ("Random" in name or name in RANDOM) and not _is_certain(name, step):
            raise UserError(f"the test pipeline has {name}, which changes images by chance, so no two runs would see "
                            "the same; remove it from the pipeline of test_dataloader")  # fmt: skip
        for inner in step.get("transforms", ()) if isinstance(step, Mapping) else ():
            check_test_steps(inner if isinstance(inner, list | tuple) else [inner])


def step_names(dataset: Mapping[str, Any]) -> set[str]:
    """The names of all steps of a data set's pipelines."""
    return {type_name(step) for pipeline in _pipelines(dataset) for step in pipeline}


def refuse_moved(steps: Collection[str], resized: bool) -> None:
    """Raise a UserError where a label's file cannot be laid over what the network sees.

    resized: the pipeline changes the label's size, so that only its file tells what it was, whatever other steps do.
    """
    wrong = sorted(name for name in steps if any(word in name for word in MOVING) or (resized and name not in PLAIN))
    if wrong or (resized and not steps):
        found = ", ".join(wrong) or "unknown steps"
        raise UserError("metric size original: expected a test pipeline that only loads, resizes and packs, since the "
                        f"labels' files are what is measured; it has {found}")  # fmt: skip


def _pipelines(node: Any) -> Iterator[list]:
    """All pipelines of a data set and of those that it wraps."""
    if isinstance(node, list | tuple):
        for one in node:
            yield from _pipelines(one)
    elif isinstance(node, Mapping):
        if node.get("pipeline"):
            yield node["pipeline"]
        yield from _pipelines([node[key] for key in ("dataset", "datasets") if key in node])


def _is_certain(name: str, step: Mapping[str, Any]) -> bool:
    """Whether a step of chance does nothing, or a flip always the same."""
    prob = step.get("prob") if isinstance(step, Mapping) else None
    if isinstance(prob, bool) or not isinstance(prob, int | float):
        return False
    return prob == 0 or (name == "RandomFlip" and prob == 1 and not isinstance(step.get("direction"), list | tuple))


def _loader(step: Any) -> str | None:
    """Which loading step of mmcv, mmseg or segrobust this is; a user's own class of such a name is none of them."""
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets.transforms import LoadAnnotations
    from mmseg.registry import TRANSFORMS

    from segrobust.datasets.loading import LoadPair

    kind = registered_type(step, TRANSFORMS) if isinstance(step, Mapping) else None
    return kind.__name__ if kind in (LoadImageFromFile, LoadAnnotations, LoadPair) else None


def _is_known(step: Any) -> bool:
    """Whether a step is one of mmcv, mmseg or segrobust, none of which gives ids another meaning."""
    from mmseg.registry import TRANSFORMS

    return getattr(registered_type(step, TRANSFORMS), "__module__", "").partition(".")[0] in OWNERS


def type_name(settings: Any) -> str:
    """The name of the type without its scope; of an object that is built already, that of its class."""
    kind = settings.get("type") if isinstance(settings, Mapping) else type(settings)
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")


def registered_type(settings: Any, registry: Registry) -> type | None:
    """The class of the type, None where there is none; of an object that is built already, its class."""
    kind = settings.get("type") if isinstance(settings, Mapping) else type(settings)
    return registry.get(kind) if isinstance(kind, str) else kind


def metainfo_of(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Classes and palette as a data set's config, or else its type, tells them, without building it."""
    from mmseg.registry import DATASETS

    own = getattr(registered_type(dataset, DATASETS), "METAINFO", None)
    return {**(own or {}), **(dataset.get("metainfo") or {})}
