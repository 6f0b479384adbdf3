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
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

from segrobust.analysis.summary import Record, summarise
from segrobust.attacks.base import AttackContractError
from segrobust.attacks.gradient import ModelError
from segrobust.checks.runner import check_run, refuse_unfit
from segrobust.commands.arguments import (
    check_segmenter,
    check_work_dir,
    checked_source,
    listed_attacks,
    listed_radii,
)
from segrobust.commands.pictures import write_pictures
from segrobust.core.errors import UserError
from segrobust.core.files import replace_file
from segrobust.core.processes import Signal, together
from segrobust.core.rows import check_complete
from segrobust.core.units import DEFAULT_EPS
from segrobust.datasets.classes import check_class_order
from segrobust.datasets.majority import colour_png, id_png
from segrobust.datasets.mask import read_mask
from segrobust.datasets.source import Source
from segrobust.datasets.survey import INPUT, survey
from segrobust.datasets.targets import Target, build_target
from segrobust.models.segmenter import Segmenter
from segrobust.report import build_report
from segrobust.runs.batch_size import AUTO, check_batch_size, settle_batch_size
from segrobust.runs.differences import check_accepted
from segrobust.runs.environment import about_this_run, environment_of, refuse_unequal
from segrobust.runs.executor import Evaluation
from segrobust.runs.folder import RunFolder
from segrobust.runs.identity import identity_of, weights_sha256
from segrobust.runs.precision import amp_name
from segrobust.studies.jobs import plan_jobs
from segrobust.studies.transfer import transferred

_LOG = logging.getLogger(__name__)


@together()
def evaluate(
    model: Segmenter,
    dataset: Source,
    attacks: Any = ("TsallisPGD",),
    eps: float | str | Sequence[float | str] = DEFAULT_EPS,
    *,
    work_dir: str | Path,
    steps: int | None = None,
    batch_size: int | str = 4,
    seed: int = 0,
    amp: bool | str = False,
    fresh: bool = False,
    save_adversarial: bool = False,
    pictures: bool = True,
    attack_defaults: dict | None = None,
    target: str | Target | None = None,
    surrogate: Segmenter | None = None,
    eot: int = 1,
    metric_size: str = INPUT,
    mask: Any = None,
    checks: str = "quick",
    accept_different: str | Sequence[str] = (),
    declared: Mapping[str, Any] | None = None,
    files: Mapping[str, Path] | None = None,
    identity: dict[str, Any] | None = None,
    about: dict[str, Any] | None = None,
) -> list[Record]:
    """Attack every image of ``dataset`` and leave rows, summary, pictures and report in ``work_dir``.

    Args:
        model: a Segmenter, on the device to use; under torchrun it is moved to the process's own device.
        dataset: a :class:`segrobust.datasets.source.Source`.
        attacks: names, configs or attack objects, or one of them; a bounded one runs at every radius of ``eps``, a
            minimum-norm one once, keeping besides its closest images the worst ones within each radius.
        steps: overrides the attacks' own number of steps.
        batch_size: images per batch, or ``"auto"``: the most that fit into memory, found before the rows begin; it is
            part of ``run.json``, so a run that goes on keeps its size.
        amp: ``"bf16"`` (or True) or ``"fp16"`` for the attacks' gradients; what is reported is float32 all the same.
        fresh: discard what ``work_dir`` holds instead of going on with it.
        save_adversarial: keep the attacked images as ``adversarial/<attack>_<eps>/<image>.npy`` (float32, RGB, [0, 1]).
        pictures: attack the report's three images once more, each on its own, to show them.
        target: what targeted attacks are to make of every pixel, such as ``"background"`` or ``"least-likely"``
            (:func:`segrobust.datasets.targets.build_target`); makes every attack targeted. ``found`` then means 99 %
            of the pixels at their target; the worst case stays that with the fewest pixels right.
        surrogate: attack this model and measure the images on ``model``; see ``transfer.py``.
        eot: for models that draw random numbers: the attacks follow the mean of so many draws, each of which counts as
            a pass; what is reported is one draw per batch, as in use, the same in every start.
        metric_size: ``"input"`` compares predictions with labels at the size of the network's input, which is attacked;
            ``"original"`` resizes logits to the labels as their files have them, as mmseg does.
        mask: where attacks may write (not 0), ``[H, W]``: a tensor, an array or a PNG's path. Every pixel counts all
            the same, and all images must have this size.
        checks: whether the results can be trusted goes into ``checks.json``: ``"quick"`` (cheap, on 16 images),
            ``"full"`` (runs the strongest attack several times more, on 8 images) or ``"off"``.
        accept_different: ``"CODE"`` or ``"VERSIONS"``, or both: go on with rows of another segrobust or of other
            libraries; ``run.json`` then tells of both under ``accepted_different``.
        declared: the model's published clean score, such as ``{"mIoU": 49.6, "images": 233}``, for the checks.
        files: paths by the names of the fields of ``identity`` that hold their sha256, for the checks.
        identity, about: more to store in ``run.json``; a run with another identity is not continued. Date, versions
            and hardware are always there.

    Returns:
        The records of ``summary.json``; on processes other than the main one as well.

    Raises:
        UserError: model and data set do not fit, all labels are void, an attack does not exist or cannot be targeted,
            memory is full, ``work_dir`` holds a run with other settings,
            another process is using it, or the processes of this run have other devices, versions or threads.
        ModelError, AttackContractError: the model cannot be attacked, or an attack is defective; the checks then say
            so too.
        FailedElsewhere: another process failed and tells why.
    """
    check_segmenter("model", model)
    dataset = checked_source(dataset)
    check_work_dir(work_dir)
    attacks, eps = listed_attacks(attacks), listed_radii(eps)
    if model.num_classes != dataset.num_classes:
        hint = "; one channel tells background and object: name both classes" if dataset.num_classes == 1 else ""
        raise UserError(f"the model has {model.num_classes} classes, the data set {dataset.num_classes}{hint}")
    check_class_order(dataset.class_names, model.class_names, "the model")
    check_batch_size(batch_size)
    if type(eot) is not int or eot < 1:
        raise UserError(f"eot: expected a whole number of at least 1, got {eot!r}")
    refuse_unfit(checks, declared)
    accept_different = check_accepted(accept_different)
    if isinstance(target, str):
        target = build_target(target, dataset)
    jobs = plan_jobs(attacks, eps, steps, attack_defaults, targeted=target is not None)
    if surrogate is not None:
        check_segmenter("surrogate", surrogate)
        jobs = transferred(jobs, surrogate, model)
        check_class_order(dataset.class_names, surrogate.class_names, "the surrogate")
    found = survey(dataset, metric_size)
    mask = None if mask is None else read_mask(mask, dataset)
    settings = {
        "batch_size": batch_size,
        "seed": seed,
        "amp": amp_name(amp),
        "target": target,
        "surrogate": surrogate,
        "eot": eot,
        "metric_size": metric_size,
        "mask": mask,
    }
    # early processes wait for late ones, and an attack may take hours
    state = PartialState(cpu=next(model.parameters()).device.type == "cpu", timeout=timedelta(days=7))
    if state.num_processes > 1:
        model.to(state.device)
        _leave_group_at_exit()
    if surrogate is not None:
        surrogate.to(next(model.parameters()).device)
    refuse_unequal(gather_object([environment_of(next(model.parameters()).device)]))
    folder = RunFolder(work_dir)
    with contextlib.ExitStack() as stack:
        if state.is_main_process:  # to the end: nobody else may start here while the checks or the report are made
            stack.enter_context(folder.held(0))
        evaluation = Evaluation(model, dataset, jobs, folder, **settings, save_adversarial=save_adversarial)
        before = _state(evaluation)
        if batch_size == AUTO:
            evaluation.batch_size = settings["batch_size"] = settle_batch_size(evaluation, fresh)
        if state.is_main_process:
            stored = {**(identity or {}), **identity_of(model, dataset, jobs, settings)}
            more = {**about_this_run(evaluation.device), "sizes": found.sizes, **(about or {})}
            folder.open(stored, fresh=fresh, about=more, accept_different=accept_different)
            for warning in found.warnings:
                _LOG.warning(warning)
            _keep_target(folder, target, dataset)
        state.wait_for_everyone()
        stack.enter_context(folder.held(state.process_index))
        error = _run(evaluation, state)
        altered = any(gather_object([_state(evaluation) != before]))
        facts = {"declared": declared, "files": files, "altered": altered}
        check = functools.partial(check_run, evaluation, checks, **facts)
        if state.is_main_process and error:
            check(error=error)
        elif state.is_main_process:
            _finish(evaluation, check, pictures)
        state.wait_for_everyone()  # a process that leaves takes the others with it
    if error:
        raise error
    return folder.read_json("summary.json")


@functools.cache
def _leave_group_at_exit() -> None:
    """A group that still stands when Python ends makes gloo abort the process now and then, after all is done."""
    atexit.register(PartialState().destroy_process_group)


def _state(evaluation: Evaluation) -> str:
    """Digest of the model that is measured and the one that is attacked, which attacks must leave as they were."""
    return weights_sha256(nn.ModuleList([evaluation.model, evaluation.attacked]))  # what they share counts once


def _run(evaluation: Evaluation, state: PartialState) -> Exception | None:
    """The work of this process, and what an attack of any process failed with, for every process the same.

    The others then stop after their batch, so that the checks of the failed run need not wait for all rows.
    """
    error, failure = None, Signal()
    try:
        evaluation.run(state.process_index, state.num_processes, failure.is_given)
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


def _finish(evaluation: Evaluation, check: Callable[..., None] | None = None, pictures: bool = True) -> None:
    """Summary, checks, pictures and report from complete rows."""
    folder = evaluation.folder
    rows = folder.rows()
    images = range(len(evaluation.source))
    check_complete(rows, (key for job in evaluation.jobs for i in images for key in job.keys(i)), folder.path)
    controls = {job.label for job in evaluation.jobs if job.attack and job.attack.control}
    summary = summarise(rows, evaluation.source.num_classes, folder.timings(), controls=controls)
    folder.write_json("summary.json", summary)
    if check:
        check(summary)
    if pictures:
        write_pictures(evaluation, summary, rows)
    build_report([folder.path])
