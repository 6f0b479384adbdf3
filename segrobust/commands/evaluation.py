"""Evaluation: every image under every attack at every radius, as rows in a run folder.

    summary = evaluate(model, source, ["TsallisPGD", "CosPGD"], eps=["1/255", "4/255"], work_dir="work_dirs/mine")

1, 2 or 8 processes (``torchrun tools/evaluate.py ...``) and a resumed run give the same rows. On a CPU rounding depends
on the number of threads, which is part of the identity (torchrun gives each process one: OMP_NUM_THREADS).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from rich.console import Console
from torch import nn

from segrobust.analysis.summary import summarise
from segrobust.attacks.base import AttackContractError
from segrobust.attacks.gradient import ModelError
from segrobust.checks.context import Context
from segrobust.checks.runner import run_checks
from segrobust.commands.arguments import check_fit, check_in_memory, check_segmenter, check_work_dir, checked_source
from segrobust.commands.devices import processes_of
from segrobust.commands.dry_run import DryRun, dry_run, print_dry_run
from segrobust.commands.given import as_segmenter, as_source
from segrobust.commands.network import Network
from segrobust.commands.pictures import write_map, write_pictures
from segrobust.commands.results import Results, print_results, results_of
from segrobust.core.agree import agree, of_all
from segrobust.core.errors import UserError
from segrobust.core.options import takes
from segrobust.core.processes import Signal, together
from segrobust.core.rows import INPUT, ORIGINAL, Condition, check_complete
from segrobust.core.units import DEFAULT_EPS
from segrobust.datasets.mask import read_mask
from segrobust.datasets.source import Source
from segrobust.datasets.survey import Survey, survey
from segrobust.datasets.targets import build_target, selected
from segrobust.models.digests import weights_sha256
from segrobust.models.segmenter import Segmenter
from segrobust.report import build_report
from segrobust.runs.batch_size import settle_batch_size
from segrobust.runs.environment import about_this_run, environment_of, refuse_unequal
from segrobust.runs.executor import Executor
from segrobust.runs.folder import RunFolder
from segrobust.runs.identity import identity_of
from segrobust.runs.images import Ordered, entries_of
from segrobust.runs.repeat_probe import note_repeatable
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
EPS_IN = "pixels of the network's input, after the test pipeline and before normalisation, in [0, 1]"
MEASURED_AT = {INPUT: "the network's input, to which labels are resized", ORIGINAL: "the labels' own size"}


@takes(Settings, Network)
@together()
def evaluate(
    model: Segmenter | nn.Module,
    dataset: Any,
    attacks: Any = DEFAULT_ATTACKS,
    eps: float | str | Sequence[float | str] = DEFAULT_EPS,
    *,
    work_dir: str | Path | None = None,
    origin: Origin = NOT_TOLD,
    quiet: bool = False,
    **options: Any,
) -> Results | DryRun:
    """Attack every image of ``dataset`` and leave rows, summary, pictures and report in ``work_dir``.

    Args:
        model: a Segmenter, or a network and ``num_classes`` with what else is to be told of it, on the device to use;
            under torchrun it is moved to the process's own device.
        dataset: ``(images, labels)``, a list of pairs, a torch data set or loader of pairs (torchvision's, too), a
            folder with ``images`` and ``labels``, an mmseg data set, or a :class:`segrobust.datasets.source.Source`.
        attacks: names, configs or attack objects, or one of them; a bounded one runs at every radius of ``eps``, a
            minimum-norm one once, keeping besides its closest images the worst ones within each radius.
        eps: radii in image units or as text such as ``"4/255"``.
        work_dir: for all results; a run that is there goes on. Without one they are in what is returned alone.
        origin: more to store in ``run.json``.
        quiet: print no table and no verdict at the end.
        options: any other of :class:`segrobust.runs.settings.Settings` and, for a network, of
            :class:`segrobust.commands.network.Network`, as listed below.

    Returns:
        The list of the records of ``summary.json``, with ``table()``, ``worst_case``, ``trust`` and ``folder``; on
        processes other than the main one as well. With ``dry_run`` what the run would cost, and nothing is written.

    Raises:
        UserError: model and data set do not fit, all labels are void, an attack does not exist or cannot be targeted,
            memory is full, several processes would use one GPU, the device lacks the precision, ``work_dir`` holds a
            run with other settings, another process is using it, or the processes of this run have other devices,
            versions or threads.
        ModelError, AttackContractError: the model cannot be attacked, or an attack is defective; the checks then say
            so too.
        FailedElsewhere: another process failed and tells why.
    """
    told = {field.name for field in dataclasses.fields(Network)}
    network = Network.of(**{name: value for name, value in options.items() if name in told and value is not None})
    others = {name: value for name, value in options.items() if name not in told}
    model = as_segmenter(model, network)
    check_segmenter("model", model)
    dataset, settings = as_source(dataset, model), Settings.of(attacks=attacks, eps=eps, **others)
    with contextlib.ExitStack() as stack:
        kept = work_dir is not None
        if not kept:
            check_in_memory(settings)
            work_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="segrobust-"))
            settings = dataclasses.replace(settings, pictures=False)
        if found := _evaluate(model, dataset, settings, work_dir, origin):
            if not quiet and PartialState().is_main_process:
                print_dry_run(found, Console(), PartialState().num_processes)
            return found
        folder = RunFolder(work_dir)
        results = results_of(folder, model.name, kept)
        if not quiet and PartialState().is_main_process:
            print_results(results, folder, settings.checks)
    return results


def _evaluate(
    model: Segmenter, dataset: Any, settings: Settings, work_dir: str | Path, origin: Origin
) -> DryRun | None:
    """The whole of an evaluation in its folder, or what it would cost."""

    def planned() -> tuple[Source, Settings, Survey, list[Study]]:
        check_work_dir(work_dir)
        source = checked_source(dataset)
        check_fit(model, source, settings.surrogate)
        found, known = survey(source, settings.metric_size), () if settings.fresh else RunFolder(work_dir).conditions()
        settled = _with_data(settings, source)
        return source, settled, found, _studies(settled, known)

    dataset, settings, found, studies = agree(planned)
    folder = RunFolder(work_dir)
    state = processes_of(model, settings)
    refuse_unequal(gather_object([environment_of(next(model.parameters()).device)]))
    shown = ("seed", "precision", "eot", "metric_size", "target", "rest", "mask", "deterministic", "cuda_graphs")
    bench = Bench(model, dataset, **{name: getattr(settings, name) for name in shown})
    with contextlib.ExitStack() as stack:
        stack.enter_context(bench.repeating())  # checks and pictures ask the model themselves
        facts = {"declared": settings.declared, "files": origin.files}
        if settings.dry_run:
            return dry_run(_opened(bench, studies, folder, settings, origin, found.sizes), settings, facts)
        if state.is_main_process:
            for warning in found.warnings:
                _LOG.warning(warning)
        # to the end: nobody else may start here while the checks or the report are made
        agree(lambda: state.is_main_process and stack.enter_context(folder.held(0)))
        before = _digest(bench, settings)
        executor = _opened(bench, studies, folder, settings, origin, found.sizes)
        stack.enter_context(folder.held(state.process_index))
        if state.is_main_process:
            note_repeatable(executor)
        error = _run(executor, state)
        if isinstance(error, UserError):
            raise of_all(error)
        altered = any(gather_object([_digest(bench, settings) != before]))
        facts |= {"altered": altered, "error": error}
        agree(lambda: state.is_main_process and _finish(executor, settings, facts))
        gather_object([None])  # all wait here: a process that leaves takes the others with it
    if error:
        raise of_all(error)
    return None


def _opened(
    bench: Bench, studies: list[Study], folder: RunFolder, settings: Settings, origin: Origin, sizes: str
) -> Executor:
    """The folder opened for this run by the main process, and all processes' source in the order of its images.

    For a dry run it is only looked at.
    """
    if settings.batch_size == AUTO:
        batch_size = settle_batch_size(bench, studies, folder, settings.fresh)
        settings = dataclasses.replace(settings, batch_size=batch_size)
    opened = agree(lambda: PartialState().is_main_process and _open(bench, studies, folder, settings, origin, sizes))
    planned, order = broadcast_object_list([opened])[0]
    bench.source = Ordered(bench.source, order)
    return Executor(bench, studies, planned or folder, settings.batch_size, settings.save_adversarial)


def _open(
    bench: Bench, studies: list[Study], folder: RunFolder, settings: Settings, origin: Origin, sizes: str
) -> tuple[RunFolder | None, list[int]]:
    """For a dry run the folder as it would be opened, and for each image of the run its place in the source."""
    stored = {**origin.identity, **identity_of(bench, studies, settings)}
    places = {"eps_in": EPS_IN, "measured_at": MEASURED_AT[settings.metric_size]}
    parameters = sum(one.numel() for one in bench.model.parameters())
    about = {**about_this_run(bench.device), "sizes": sizes, "parameters": parameters, **places, **origin.about}
    conditions = [condition for study in studies for condition in study.conditions]
    entries = entries_of(bench.source)
    if settings.universal:
        _refuse_fitted_on(entries, entries_of(settings.fit_on))
    options = {"fresh": settings.fresh, "about": about, "accept_different": settings.accept_different}
    if settings.dry_run:
        return folder.planned(stored, entries, **options)
    order = folder.open(stored, conditions, entries, **options)
    if settings.target is not None and settings.target.map is not None:  # for the next start, and a reader
        write_map(folder.path / "target.png", settings.target.map, bench.source)
    return None, order


def _refuse_fitted_on(measured: Sequence[Mapping[str, Any]], fitted_on: Sequence[Mapping[str, Any]]) -> None:
    """UserError where what is universal would be measured on images that it was fitted on."""
    both = [one["name"] for one in fitted_on if one["sha256"] in {other["sha256"] for other in measured}]
    if both:
        raise UserError(
            f"universal: {len(both)} of the {len(fitted_on)} images to fit on are measured too, such as {both[0]!r}; "
            "it is fitted on other images: name another split as the config's val_dataloader (in Python: fit_on)"
        )


def _with_data(settings: Settings, dataset: Source) -> Settings:
    """With the target and the mask as the data set has them."""
    target, mask = settings.target, settings.mask
    target = build_target(target, dataset) if isinstance(target, str) else target
    return dataclasses.replace(
        settings,
        fit_on=settings.fit_on and checked_source(settings.fit_on),
        target=target and selected(target, settings.where, dataset),
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
    universal = plan_universal(settings.universal, settings.eps, settings.fit_on, settings.norm, known)
    studies = [Clean(), *attacks, *corruptions, *universal, *settings.studies]
    counts = Counter(condition for study in studies for condition in study.conditions)
    if twice := next((one for one, count in counts.items() if count > 1), None):
        raise UserError(f"two studies have the condition {twice.title}: what tells them apart belongs into its fields")
    return studies


def _digest(bench: Bench, settings: Settings) -> str:
    """Of the model that is measured and the one that is attacked, which attacks must leave as they were."""
    return weights_sha256(nn.ModuleList([bench.model, settings.surrogate or bench.model]))  # shared parts count once


def _run(executor: Executor, state: PartialState) -> Exception | None:
    """The work of this process, and what that of any process failed with, for every process the same.

    The others then stop after their batch, so that the checks of the failed run need not wait for all rows.
    """
    error, failure = None, Signal()
    try:
        executor.run(state.process_index, state.num_processes, failure.is_given)
    except (AttackContractError, ModelError, UserError) as caught:
        error = caught
        failure.give()
    return next((one for one in gather_object([error]) if one), None)


def _finish(executor: Executor, settings: Settings, facts: dict[str, Any]) -> None:
    """Summary, checks, pictures and report from complete rows; of a run that failed, the checks alone."""
    folder, images = executor.folder, len(executor.bench.source)
    if facts["error"]:
        if settings.checks:
            run_checks(Context(executor, **facts))
        return
    rows = folder.rows()
    check_complete(rows, [one for study in executor.studies for one in study.conditions], images, folder.path)
    source = executor.bench.source
    summary = summarise(rows, source.num_classes, folder.timings(), images, class_names=source.class_names)
    folder.write_json("summary.json", summary)
    if settings.checks:
        run_checks(Context(executor, summary, **facts))
    if settings.pictures:
        write_pictures(executor, summary, rows)
    build_report([folder.path])
