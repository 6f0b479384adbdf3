"""The options of an evaluation: what the command line, the Python call and a run's identity are read from.

settings = Settings.of(attacks=["TsallisPGD"], eps=["4/255"], seed=1)
settings.identity()     # {"batch_size": 4, "seed": 1, "precision": "float32"}

Imports no torch, so that the command line can refuse a wrong value at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segrobust.core.attack_specs import parse_spec
from segrobust.core.errors import UserError, unknown_name
from segrobust.core.options import Options, existing_file, one_of, option, whole
from segrobust.core.precision_names import FLOAT32, HALF, PRECISIONS
from segrobust.core.rows import INPUT, METRIC_SIZES
from segrobust.core.units import DEFAULT_EPS, parse_eps
from segrobust.datasets.corruption_names import SEVERITIES, corruption_name, corruptions_named, severity
from segrobust.datasets.target_spec import FREE, KEPT, PLAIN, REST, leaves_pixels_out, parse_target, parse_where

if TYPE_CHECKING:
    from segrobust.datasets.source import Source
    from segrobust.datasets.targets import Target
    from segrobust.models.segmenter import Segmenter
    from segrobust.studies.base import Study

NORMS = ("Linf", "L2", "L1")
AUTO = "auto"
UNIVERSAL = ("perturbation", "patch")
DEFAULT_ATTACKS = ("TsallisPGD", "SegPGD", "CosPGD")


def _text(parse: Callable[[str], Any], word: str) -> Callable[[Any], Any]:
    """A check that text can be read, and is kept as it is: ``word``, with which errors begin, is the option itself."""

    def check(value: Any) -> Any:
        try:
            if isinstance(value, str):
                parse(value)
        except UserError as error:
            raise UserError(str(error).removeprefix(f"{word}: ")) from None
        return value

    return check


def _radius(value: Any) -> None:
    parse_eps(value, norm="")  # whether an attack's norm allows it, the attack says


def _amp(value: bool | str) -> str | bool:
    return HALF[0] if value is True else value if value is False else one_of(*HALF)(value)


def _universal(value: str) -> str:
    """``perturbation`` or ``patch``, with fields in parentheses or without."""
    name = parse_spec(str(value))["type"]
    if name not in UNIVERSAL:
        raise unknown_name("universal attack", name, UNIVERSAL)
    return value


def _declared(value: Any) -> Mapping[str, float]:
    known = isinstance(value, Mapping) and "mIoU" in value and set(value) <= {"mIoU", "images"}
    if not (known and all(type(number) in (int, float) for number in value.values())):
        raise UserError(f"expected dict(mIoU=PERCENT, images=NUMBER), the clean score, got {value!r}")
    return value


def _study(value: Any) -> Any:
    if isinstance(value, type) or not hasattr(value, "perturbed"):
        raise UserError(f"expected a Study of segrobust.studies.base, got {value!r}")
    return value


def _switch(flag: str) -> Callable[[Any], bool]:
    """A check for True or False; ``flag`` is the one that means False on the command line."""

    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise UserError(f"expected True or False ({flag} on the command line), got {value!r}")
        return value

    return check


def _mask(value: Any) -> Any:
    return existing_file(value) if isinstance(value, str | Path) else value


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings(Options):
    """Every option of an evaluation; :func:`segrobust.evaluate` takes them by name.

    Raises:
        UserError: a value that is none of its option.
    """

    attacks: tuple[Any, ...] = option(
        DEFAULT_ATTACKS,
        "names, with fields in parentheses or without (in Python also configs, attacks and their classes); a bounded "
        "attack runs at every radius, a minimum-norm one once (default where no corruption and nothing universal is "
        f"asked for: {' '.join(DEFAULT_ATTACKS)})",
        _text(parse_spec, "attack"),
        flag="--attack",
        metavar="NAME",
        many='["TsallisPGD", "CosPGD"]',
    )
    eps: tuple[float | str, ...] = option(
        (DEFAULT_EPS,),
        "radii, in units of the image range",
        _text(_radius, "eps"),
        metavar="EPS",
        many='["1/255", "4/255"]',
    )
    norm: str | None = option(
        None,
        "threat model of every attack that does not name its own (default: the attack's)",
        one_of(*NORMS),
        metavar="{Linf,L2,L1}",
    )
    steps: int | None = option(None, "steps of every attack (default: the attack's own)", whole(1), metavar="N")
    target: str | Target | None = option(
        None,
        f"what all pixels are to become: {', '.join(PLAIN)}, class:NAME, mask:FILE or, class by class, "
        "map:NAME=NAME,...; makes every attack targeted (default: no longer right)",
        _text(parse_target, "target"),
        metavar="SPEC",
    )
    where: str | None = option(
        None,
        "the pixels that are to reach the target, and that success is counted over: class:NAME,... by their labels, or "
        "mask:FILE where it is not 0 (default: all that have a target)",
        _text(parse_where, "where"),
        metavar="SPEC",
    )
    rest: str = option(
        FREE,
        "what pixels without a target are to do: become anything, or keep the clean prediction",
        one_of(*REST),
        metavar="{free,kept}",
    )
    mask: Any = option(
        None,
        "PNG of one channel (in Python also a tensor or an array) at the network's input size: attacks may write where "
        "it is not 0 (default: everywhere)",
        _mask,
        metavar="FILE",
    )
    surrogate: Segmenter | None = option(
        None, "attack this model and measure the images on the other one (transfer)", only_python=True
    )
    eot: int = option(
        1, "for models that draw random numbers: attack the mean of N draws, each of which counts as a pass", whole(1),
        metavar="N",
    )  # fmt: skip
    corruptions: tuple[str, ...] = option(
        (),
        "common corruptions: all, a group (noise, blur, weather, digital) or names such as fog; each at every severity",
        corruption_name,
        metavar="NAME",
        many='["all"] or ["noise", "fog"]',
    )
    severity: tuple[int, ...] = option(
        SEVERITIES, "of the corruptions, from 1 to 5", severity, metavar="N", many="[1, 3, 5]"
    )
    universal: tuple[str, ...] = option(
        (),
        "one perturbation or patch for all images, with fields in parentheses or without, fitted on images of the "
        "config's val split (in Python: fit_on)",
        _universal,
        metavar="{perturbation,patch}",
        many='["perturbation", "patch"]',
    )
    fit_on: Source | None = option(
        None, "the images, of another split, that a universal perturbation or patch is fitted on", only_python=True
    )
    studies: tuple[Study, ...] = option(
        (), "studies of your own, beside those that the other options ask for", _study, only_python=True,
        many="[MyStudy()]",
    )  # fmt: skip
    metric_size: str = option(
        INPUT,
        "where to measure: at the network's input, which is attacked, or at the labels' own size",
        one_of(*METRIC_SIZES),
        metavar="{input,original}",
    )
    batch_size: int | str = option(
        4, "images per batch, or auto: the most that fit into memory, found before the rows begin", whole(1, AUTO),
        metavar="N",
    )  # fmt: skip
    seed: int = option(0, "of the random starts", whole(0), metavar="N")
    precision: str | None = option(
        None,
        "what attacks compute in: float32, float32 with TF32 products on GPUs that have them, or mixed with bf16 or "
        "fp16; what is reported is always true float32 (default: float32)",
        one_of(*PRECISIONS),
        metavar="{float32,tf32,bf16,fp16}",
    )
    amp: str | bool = option(
        False,
        "short for a precision of bf16 or fp16, bf16 unless told",
        _amp,
        const=HALF[0],
        metavar="{bf16,fp16}",
    )
    share_device: bool = option(
        False, "let several processes use one GPU, each an equal part of its memory, where there are more than GPUs"
    )
    deterministic: bool = option(
        True,
        "attacks and predictions that repeat bit for bit on a GPU, as they do on a CPU; without it a GPU may be faster "
        "and another start gives other numbers",
        _switch("--no-deterministic"),
    )
    cuda_graphs: bool = option(
        True,
        "the replay of passes of one shape as CUDA graphs, which decides no row but makes small networks several times "
        "faster on a GPU",
    )
    checks: bool = option(
        True,
        "the trust checks: can the results be believed? They look at 16 images, with some 60 passes each, half a "
        "minute on one CPU core for the shipped models",
        _switch("--no-checks"),
    )
    pictures: bool = option(True, "the report's pictures, for which three images are attacked once more")
    save_adversarial: bool = option(False, "keep the attacked images, as adversarial/<attack>_<eps>/<image>.npy")
    dry_run: bool = option(
        False,
        "time a few passes of what is missing, tell passes, time and memory of the whole run, and leave the work dir "
        "as it is",
    )
    fresh: bool = option(False, "discard what an earlier run left in the work dir instead of going on with it")
    accept_different: tuple[str, ...] = option(
        (),
        "go on with a run of another segrobust (CODE) or other libraries (VERSIONS); run.json then tells of both",
        one_of("CODE", "VERSIONS"),
        metavar="{CODE,VERSIONS}",
        many='["CODE"]',
    )
    attack_defaults: Mapping[str, Mapping[str, Any]] | None = option(
        None, "fields by an attack's name that the data set knows, such as class counts", only_python=True
    )
    declared: Mapping[str, float] | None = option(
        None,
        "the model's published clean score, {'mIoU': 49.6, 'images': 233}, for the checks",
        _declared,
        only_python=True,
    )

    def __post_init__(self) -> None:
        others = self.corruptions or self.universal or self.studies
        if others and self.attacks is DEFAULT_ATTACKS:  # nobody asked for attacks, and they take the longest
            object.__setattr__(self, "attacks", ())
        super().__post_init__()
        if self.amp and self.precision not in (None, self.amp):
            raise UserError(f"amp: {self.amp} is short for precision {self.amp}, and precision is {self.precision}; "
                            "give one of them")  # fmt: skip
        object.__setattr__(self, "precision", self.amp or self.precision or FLOAT32)
        object.__setattr__(self, "amp", False)
        object.__setattr__(self, "corruptions", corruptions_named(self.corruptions))
        if self.severity != SEVERITIES and not self.corruptions:
            raise UserError("severity: expected corruptions beside it, such as all, got none")
        self._check_where()
        for what in ("target", "mask", "surrogate") if self.universal else ():
            if getattr(self, what) is not None:
                raise UserError(f"universal: takes no {what}; leave one of the two out")

    def _check_where(self) -> None:
        """Refuse pixels without a target that all are to reach, and a rest of none."""
        if self.where is not None and self.target is None:
            raise UserError("where: expected a target beside it, such as class:road, which these pixels are to reach")
        everywhere = isinstance(self.target, str) and not leaves_pixels_out(self.target)
        if self.rest == KEPT and self.where is None and (self.target is None or everywhere):
            raise UserError("rest: expected a target and where beside it, which say what the others are; got none")

    def identity(self) -> dict[str, Any]:
        """Those that decide all rows, but for what is known only with the data: the target, the mask and the models."""
        return {
            "batch_size": self.batch_size,
            "seed": self.seed,
            "precision": self.precision,
            **({"metric_size": self.metric_size} if self.metric_size != INPUT else {}),
            **({"eot": self.eot} if self.eot > 1 else {}),
            **({"rest": self.rest} if self.rest != FREE else {}),
            **({} if self.deterministic else {"deterministic": False}),
        }
