"""Evaluation: every image under every attack at every radius, as rows in a run folder.

    summary = evaluate(model, source, ["TsallisPGD", "CosPGD"], eps=["1/255", "4/255"], work_dir="work_dirs/mine")

Batch i holds the same images whatever the number of processes, and processes take whole batches; so 1, 2 or 8
processes and a resumed run give the same rows. Start several with ``torchrun tools/evaluate.py ...``; an error of one
ends all. On a CPU rounding depends on the number of threads, which is part of the identity (torchrun gives each process
one: OMP_NUM_THREADS).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from segrobust.analysis.summary import Record, summarise
from segrobust.attacks.base import AttackContractError
from segrobust.attacks.gradient import ModelError
from segrobust.checks.context import Context
from segrobust.checks.runner import run_checks
from segrobust.commands.arguments import check_segmenter, check_work_dir, checked_source
from segrobust.commands.pictures import write_pictures
from segrobust.core.errors import UserError
from segrobust.core.files import replace_file
from segrobust.core.options import takes
from segrobust.core.processes import Signal, together
from segrobust.core.rows import Condition, check_complete
from segrobust.core.units import DEFAULT_EPS
from segrobust.datasets.classes import check_class_order
from segrobust.datasets.majority import colour_png, id_png
from segrobust.datasets.mask import read_mask
from segrobust.datasets.source import Source
from segrobust.datasets.survey import survey
from segrobust.datasets.targets import Target, build_target
from segrobust.models.digests import weights_sha256
from segrobust.models.segmenter import Segmenter
from segrobust.report import build_report
from segrobust.runs.batch_size import settle_batch_size
from segrobust.runs.environment import about_this_run, environment_of, refuse_unequal
from segrobust.runs.executor import Executor
from segrobust.runs.folder import RunFolder
from segrobust.runs.identity import identity_of
from segrobust.runs.images import Ordered, entries_of
from segrobust.runs.settings import AUTO, DEFAULT_ATTACKS, Settings
from segrobust.studies.attack import plan_attacks
from segrobust.studies.base import Study
from segrobust.studies.bench import Bench
from segrobust.studies.clean import Clean
from segrobust.studies.corruption import plan_corruptions
from segrobust.studies.universal import plan_universal

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """Where model and data come from, as far as the caller knows: more to store in ``run.json``.

    identity: a run with another one is not continued.
    about: told to a reader, beside date, versions and hardware, which are always there.
    files: paths by the names of the fields of ``identity`` that hold their sha256, for the checks.
    """

    identity: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


NOT_TOLD = Origin()


@takes(Settings)
@together()
def evaluate(
    model: Segmenter,
    dataset: Source,
    attacks: Any = DEFAULT_ATTACKS,
    eps: float | str | Sequence[float | str] = DEFAULT_EPS,
    *,
    work_dir: str | Path,
    origin: Origin = NOT_TOLD,
    **settings: Any,
) -> list[Record]:
    """Attack every image of ``dataset`` and leave rows, summary, pictures and report in ``work_dir``.

    Args:
        model: a Segmenter, on the device to use; under torchrun it is moved to the process's own device.
        dataset: a :class:`segrobust.datasets.source.Source`.
        attacks: names, configs or attack objects, or one of them; a bounded one runs at every radius of ``eps``, a
            minimum-norm one once, keeping besides its closest images the worst ones within each radius.
        eps: radii in image units or as text such as ``"4/255"``.
        work_dir: for all results; a run that is there goes on.
        origin: more to store in ``run.json``.
        settings: any other of :class:`segrobust.runs.settings.Settings`, as listed below.

    Returns:
        The records of ``summary.json``; on processes other than the main one as well.

    Raises:
        UserError: model and data set do not fit, all labels are void, an attack does not exist or cannot be targeted,
            memory is full, ``work_dir`` holds a run with other settings, another process is using it, or the processes
            of this run have other devices, versions or threads.
        ModelError, AttackContractError: the model cannot be attacked, or an attack is defective; the checks then say
            so too.
        FailedElsewhere: another process failed and tells why.
    """
    check_segmenter("model", model)
    dataset = checked_source(dataset)
    check_work_dir(work_dir)
    settings = Settings.of(attacks=attacks, eps=eps, **settings)
    _check_fit(model, dataset, settings)
    found, folder = survey(dataset, settings.metric_size), RunFolder(work_dir)
    settings = _with_data(settings, dataset)
    studies = _studies(settings, () if settings.fresh else folder.conditions())
    state = _processes(model, settings.surrogate)
    refuse_unequal(gather_object([environment_of(next(model.parameters()).device)]))
    shown = {name: getattr(settings, name) for name in ("seed", "amp", "eot", "metric_size", "target", "mask")}
    bench = Bench(model, dataset, **shown)
    with contextlib.ExitStack() as stack:
        if state.is_main_process:  # to the end: nobody else may start here while the checks or the report are made
            stack.enter_context(folder.held(0))
        before = _digest(model, settings.surrogate)
        if settings.batch_size == AUTO:
            settings = settings.with_(batch_size=settle_batch_size(bench, studies, folder, settings.fresh))
        order = [None]
        if state.is_main_process:
            stored = {**origin.identity, **identity_of(bench, studies, settings)}
            about = {**about_this_run(bench.device), "sizes": found.sizes, **origin.about}
            conditions = [condition for study in studies for condition in study.conditions]
            options = {"fresh": settings.fresh, "about": about, "accept_different": settings.accept_different}
            order = [folder.open(stored, conditions, entries_of(dataset), **options)]
            for warning in found.warnings:
                _LOG.warning(warning)
            _keep_target(folder, settings.target, dataset)
        bench.source = Ordered(dataset, broadcast_object_list(order)[0])
        stack.enter_context(folder.held(state.process_index))
        executor = Executor(bench, studies, folder, settings.batch_size, settings.save_adversarial)
        error = _run(executor, state)
        altered = any(gather_object([_digest(model, settings.surrogate) != before]))

        def check(summary: Sequence[Record] = ()) -> None:
            if settings.checks:
                facts = {"declared": settings.declared, "files": origin.files, "altered": altered, "error": error}
                run_checks(Context(executor, summary, **facts))

        if state.is_main_process and error:
            check()
        elif state.is_main_process:
            _finish(executor, check, settings.pictures)
        state.wait_for_everyone()  # a process that leaves takes the others with it
    if error:
        raise error
    return folder.read_json("summary.json")


def _check_fit(model: Segmenter, dataset: Source, settings: Settings) -> None:
    """UserError: the data set, the model and the surrogate have not the same classes."""
    if model.num_classes != dataset.num_classes:
        hint = "; one channel tells background and object: name both classes" if dataset.num_classes == 1 else ""
        raise UserError(f"the model has {model.num_classes} classes, the data set {dataset.num_classes}{hint}")
    check_class_order(dataset.class_names, model.class_names, "the model")
    if (surrogate := settings.surrogate) is not None:
        check_segmenter("surrogate", surrogate)
        if surrogate.num_classes != model.num_classes:
            raise UserError(
                f"expected a surrogate with the {model.num_classes} classes of the evaluated model, got "
                f"{surrogate.num_classes} ({surrogate.name})"
            )
        check_class_order(dataset.class_names, surrogate.class_names, "the surrogate")


def _with_data(settings: Settings, dataset: Source) -> Settings:
    """With the target and the mask as the data set has them."""
    target, mask = settings.target, settings.mask
    return settings.with_(
        fit_on=settings.fit_on and checked_source(settings.fit_on),
        target=build_target(target, dataset) if isinstance(target, str) else target,
        mask=None if mask is None else read_mask(mask, dataset),
    )


def _studies(settings: Settings, known: Sequence[Condition]) -> list[Study]:
    """What the settings ask for; conditions that are known keep their names."""
    attacks = plan_attacks(
        settings.attacks,
        settings.eps,
        norm=settings.norm,
        steps=settings.steps,
        defaults=settings.attack_defaults,
        targeted=settings.target is not None,
        surrogate=settings.surrogate,
        known=known,
    )
    corruptions = plan_corruptions(settings.corruptions, settings.severity)
    if settings.universal and settings.fit_on is None:
        raise UserError("fit_on: expected the images of another split, on which what is universal is fitted, got none")
    universal = plan_universal(settings.universal, settings.eps, settings.fit_on, settings.norm)
    return [Clean(), *attacks, *corruptions, *universal, *settings.studies]


def _processes(model: Segmenter, surrogate: Segmenter | None) -> PartialState:
    """The processes of this run, each with its model on its own device."""
    # early processes wait for late ones, and an attack may take hours
    state = PartialState(cpu=next(model.parameters()).device.type == "cpu", timeout=timedelta(days=7))
    if state.num_processes > 1:
        model.to(state.device)
        _leave_group_at_exit()
    if surrogate is not None:
        surrogate.to(next(model.parameters()).device)
    return state


@functools.cache
def _leave_group_at_exit() -> None:
    """A group that still stands when Python ends makes gloo abort the process now and then, after all is done."""
    atexit.register(PartialState().destroy_process_group)


def _digest(model: Segmenter, surrogate: Segmenter | None) -> str:
    """Of the model that is measured and the one that is attacked, which attacks must leave as they were."""
    return weights_sha256(nn.ModuleList([model, surrogate or model]))  # what they share counts once


def _run(executor: Executor, state: PartialState) -> Exception | None:
    """The work of this process, and what an attack of any process failed with, for every process the same.

    The others then stop after their batch, so that the checks of the failed run need not wait for all rows.
    """
    error, failure = None, Signal()
    try:
        executor.run(state.process_index, state.num_processes, failure.is_given)
    except (AttackContractError, ModelError) as caught:
        error = caught
        failure.give()
    return next((one for one in gather_object([error]) if one), None)


def _keep_target(folder: RunFolder, target: Target | None, dataset: Source) -> None:
    """Store the map that serves all images, so that the next start and a reader need not make it again."""
    if target is not None and target.map is not None:
        replace_file(folder.path / "target.png", id_png(target.map))
        colours = colour_png(target.map, dataset.palette, dataset.ignore_index)
        replace_file(folder.path / "target-colours.png", colours)


def _finish(executor: Executor, check: Callable[..., None], pictures: bool = True) -> None:
    """Summary, checks, pictures and report from complete rows."""
    folder, source = executor.folder, executor.bench.source
    asked = [condition for study in executor.studies for condition in study.conditions]
    rows = folder.rows()
    check_complete(rows, asked, len(source), folder.path)
    summary = summarise(rows, source.num_classes, folder.timings(), len(source))
    folder.write_json("summary.json", summary)
    check(summary)
    if pictures:
        write_pictures(executor, summary, rows)
    build_report([folder.path])
