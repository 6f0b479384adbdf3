"""What each command does with its checked options; torch and the rest are imported only here, on use."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path

import segrobust
from segrobust.commands.catalogue import check_specs, in_catalogue
from segrobust.commands.own_code import may_register
from segrobust.core.errors import Interrupted, UserError
from segrobust.models.shipped import config_file, shipped_model


def version() -> str:
    """The package's version."""
    return segrobust.__version__


def demo(options: Namespace) -> None:
    """Train two small segmenters on synthetic scenes and compare them."""
    from segrobust.commands.demo import run_demo

    try:
        run_demo(options.work_dir or Path("work_dirs/demo"))
    except Interrupted as error:  # its advice is for `segrobust train`; a demo goes on by itself
        raise KeyboardInterrupt from error


def train(options: Namespace) -> None:
    """Train what the config describes."""
    shipped = _shipped(options.config)
    _make_own_modules_importable()
    from segrobust.commands.training import train

    train(
        shipped or options.config,
        work_dir=options.work_dir,
        resume=options.resume,
        amp=options.amp,
        cfg_options=dict(options.cfg_options),
        launcher=options.launcher,
    )


def evaluate(options: Namespace) -> None:
    """Attack a checkpoint and leave rows, summary and report in the work dir."""
    shipped = _shipped(options.config)
    if options.checkpoint is None and shipped is None:
        raise UserError("a config file needs a CHECKPOINT after it; only the names in `segrobust models` bring weights")
    if options.source_checkpoint and not options.source:
        raise UserError("--source-checkpoint needs the --source config that it belongs to")
    _make_own_modules_importable()
    _check_attacks(options)
    from segrobust.commands.evaluate import evaluate_command

    evaluate_command(
        config=shipped or options.config,
        checkpoint=options.checkpoint,
        attacks=options.attack,
        eps=options.eps,
        steps=options.steps,
        num_images=options.num_images,
        batch_size=options.batch_size,
        work_dir=options.work_dir or Path("work_dirs") / (shipped or Path(options.config).stem) / "evaluation",
        fresh=options.fresh,
        amp=options.amp,
        fold_bn=options.fold_bn,
        channels_last=options.channels_last,
        checkpointing=options.checkpointing,
        save_adversarial=options.save_adversarial,
        pictures=not options.no_pictures,
        trust_checkpoint=options.trust_checkpoint,
        kind=options.weights,
        cfg_options=dict(options.cfg_options),
        seed=options.seed,
        target=options.target,
        surrogate=options.source and (_shipped(options.source) or options.source, options.source_checkpoint),
        eot=options.eot,
        metric_size=options.metric_size,
        mask=options.mask,
        checks=options.checks,
        accept_different=options.accept_different,
    )


def _check_attacks(options: Namespace) -> None:
    """Tell what is wrong with the attacks now, before mmseg and the data are loaded.

    A name that is not ours may be one that the config's own modules register: then they are read first.
    """
    if not all(map(in_catalogue, options.attack)) and may_register(options.config):
        from segrobust.models.mm import load_config

        load_config(options.config)
    check_specs(options.attack)
    from segrobust.attacks import build_attack

    targeted = {"targeted": True} if options.target else {}
    for name in options.attack:
        build_attack(name, **targeted)


def targets(options: Namespace) -> None:
    """Write the majority map of the training labels."""
    if options.out.suffix != ".png":
        raise UserError(f"expected a name that ends in .png for --out, got {str(options.out)!r}")
    shipped = _shipped(options.config)
    from segrobust.commands.evaluate import targets_command

    for path in targets_command(shipped or options.config, options.out, dict(options.cfg_options)):
        print(path)


def report(options: Namespace) -> None:
    """Write the report over finished runs."""
    for folder in options.run_dirs:
        if not (folder / "run.json").is_file():
            raise UserError(f"no run in {str(folder)!r} (no run.json); name the work dir of a `segrobust evaluate`")
    from segrobust.report import build_report

    print(build_report(options.run_dirs, options.out))


def attacks(options: Namespace) -> None:
    """List the attacks, or what can be set of one."""
    from segrobust.commands.listing import print_attacks, print_fields

    print_fields(options.name) if options.name else print_attacks()


def models(options: Namespace) -> None:
    """List the shipped models."""
    from segrobust.commands.listing import print_models

    print_models()


def inspect(options: Namespace) -> None:
    """Show what a checkpoint holds."""
    from segrobust.commands.listing import print_checkpoint

    print_checkpoint(options.file)


def convert(options: Namespace) -> None:
    """Write a checkpoint as safetensors."""
    target = options.out or options.file.with_suffix(".safetensors")
    if target.suffix != ".safetensors":
        raise UserError(f"expected a name that ends in .safetensors for --out, got {str(target)!r}")
    if target.exists():
        raise UserError(f"{str(target)!r} exists already; remove it or name another with --out")
    from segrobust.models.checkpoint.loading import convert_checkpoint

    convert_checkpoint(options.file, target, half=options.half, weights=options.weights)
    print(target)


def _make_own_modules_importable() -> None:
    """The current folder, as under ``python -m``, for a config's ``custom_imports``; last, so that it hides nothing."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def _shipped(config: str) -> str | None:
    """Name of the shipped model that ``config`` means; anything else must be a config, or is refused now."""
    config_file(config)
    entry = shipped_model(config)
    return entry and entry.name
