"""What each command does with its checked options; torch and the rest are imported only here, on use."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from segrobust.commands.benchmark_cells import Benchmarking, cells_of, work_dir_of
from segrobust.commands.benchmark_file import naming, read_benchmark
from segrobust.commands.catalogue import check_specs, in_catalogue, norm_of
from segrobust.commands.inputs import Inputs, shipped_name
from segrobust.commands.network import Network, check_network
from segrobust.commands.parsing import options_from, parse_cfg_options
from segrobust.core.errors import Interrupted, UserError
from segrobust.core.own_code import import_own
from segrobust.core.units import parse_eps
from segrobust.datasets.folders import published, splits_in
from segrobust.models.shipped import config_file
from segrobust.runs.settings import Settings


def demo(options: Namespace) -> None:
    """Train two small segmenters on synthetic scenes and compare them."""
    from segrobust.commands.demo import run_demo

    try:
        run_demo(options.work_dir or Path("work_dirs/demo"))
    except Interrupted as error:  # its advice is for `segrobust train`; a demo goes on by itself
        raise KeyboardInterrupt from error


def train(options: Namespace) -> None:
    """Train what the config describes."""
    shipped = shipped_name(options.config)
    from segrobust.commands.training import train

    train(
        shipped or options.config,
        work_dir=options.work_dir,
        resume=options.resume,
        amp=options.amp,
        cfg_options=parse_cfg_options(options.cfg_options),
        launcher=options.launcher,
        deterministic=not options.no_deterministic,
        verbose=options.verbose,
    )


def evaluate(options: Namespace) -> None:
    """Attack a checkpoint and leave rows, summary and report in the work dir."""
    inputs, network, settings = (options_from(kind, options) for kind in (Inputs, Network, Settings))
    _check(inputs, network, settings)
    from segrobust.commands.evaluate import evaluate_command

    evaluate_command(inputs, network, settings)


def benchmark(options: Namespace) -> None:
    """Evaluate models under studies, and write one table."""
    asked = options_from(Benchmarking, options)
    file = read_benchmark(asked.file)
    cells = cells_of(file, asked)
    for cell in cells:
        with naming(f"{file.path}, {cell}"):
            _check(cell.inputs, cell.network, cell.settings)
    if file.golden is not None:
        from segrobust.analysis.golden import read_golden

        read_golden(file.golden)  # what is wrong in it is told now
    from segrobust.commands.benchmark import benchmark_command, benchmark_dry_run

    benchmark_dry_run(cells) if asked.dry_run else benchmark_command(file, cells, work_dir_of(file, asked))


def _check(inputs: Inputs, network: Network, settings: Settings) -> None:
    """Tell what is wrong with an evaluation now, before its model and data are loaded."""
    check_network(inputs, network)
    import_own(inputs.imports)
    _check_attacks(inputs, settings)


def _check_attacks(inputs: Inputs, settings: Settings) -> None:
    """Tell what is wrong with the attacks now, before mmseg and the data are loaded.

    A name that is not ours may be one that the config's own modules register: then they are read first. Data registers
    nothing, and neither do the shipped models' configs.
    """
    if inputs.config.endswith(".py") and not all(map(in_catalogue, settings.attacks)):
        from segrobust.models.mm import load_config

        load_config(inputs.config)
    check_specs(settings.attacks)
    for norm in {norm_of(spec, settings.norm) for spec in settings.attacks}:  # a forgotten /255
        for radius in settings.eps:
            parse_eps(radius, norm, "--eps")
    from segrobust.studies.attack import built

    for spec in settings.attacks:
        built(spec, settings.norm, targeted=settings.target is not None)


def targets(options: Namespace) -> None:
    """Write the majority map of the training labels."""
    if options.out.suffix != ".png":
        raise UserError(f"expected a name that ends in .png for --out, got {str(options.out)!r}")
    shipped = shipped_name(options.config)
    from segrobust.commands.evaluate import targets_command

    for path in targets_command(shipped or options.config, options.out, parse_cfg_options(options.cfg_options)):
        print(path)


def report(options: Namespace) -> None:
    """Write the report over finished runs or over trainings, or what is asked for in its place."""
    for folder in options.run_dirs:
        if not (folder / "run.json").is_file() and not any(folder.glob("*/vis_data/scalars.json")):
            raise UserError(
                f"no run in {str(folder)!r} (no run.json) and no training (no */vis_data/scalars.json); "
                "name the work dir of a `segrobust evaluate` or a `segrobust train`"
            )
    from segrobust.report import build_report, export
    from segrobust.report.training import trainings_alone

    kinds = ("csv", "rows_csv", "latex", "markdown", "figures", "model_card")
    asked = {kind: getattr(options, kind) for kind in kinds}
    if trainings_alone(options.run_dirs):
        _report_trainings(options, asked)
        return
    if any(asked.values()):
        print(*export(options.run_dirs, **asked), sep="\n")
    if options.out or options.interactive or not any(asked.values()):
        print(build_report(options.run_dirs, options.out, options.interactive))


def _report_trainings(options: Namespace, asked: dict[str, Path | None]) -> None:
    wrong = [kind for kind, path in asked.items() if path and kind != "csv"] + ["interactive"] * options.interactive
    if wrong:
        raise UserError(
            f"--{wrong[0].replace('_', '-')} is for evaluated runs; of a training there are the page (--out) and its "
            "numbers (--csv)"
        )
    from segrobust.report.training_page import build_training_report, write_training_csv

    if options.csv:
        print(write_training_csv(options.run_dirs, options.csv))
    if options.out or not options.csv:
        print(build_training_report(options.run_dirs, options.out))


def leaderboard_add(options: Namespace) -> None:
    """Add runs to a leaderboard, or lower an entry."""
    from segrobust.commands.leaderboard import add_command

    add_command(options)


def leaderboard_verify(options: Namespace) -> int:
    """Tell whether a leaderboard follows from what it keeps."""
    from segrobust.commands.leaderboard import verify_command

    return verify_command(options)


def leaderboard_build(options: Namespace) -> None:
    """Write a leaderboard's page."""
    from segrobust.commands.leaderboard import build_command

    build_command(options)


def attacks(options: Namespace) -> None:
    """List the attacks, or what can be set of one."""
    from segrobust.commands.listing import print_attacks, print_fields

    print_fields(options.name) if options.name else print_attacks()


def models(options: Namespace) -> None:
    """List the shipped and the published models, or all about one."""
    from segrobust.commands.models import print_models

    print_models(options.name, options.json)


def inspect(options: Namespace) -> None:
    """Tell what a checkpoint holds and which model it fits."""
    for model in options.model:
        config_file(model)
    from segrobust.commands.checkpoints import inspect_command

    inspect_command(options.file, options.model, as_json=options.json, trust=options.trust_checkpoint)


def convert(options: Namespace) -> None:
    """Write a checkpoint as safetensors."""
    target = options.out or options.file.with_suffix(".safetensors")
    if target.suffix != ".safetensors":
        raise UserError(f"expected a name that ends in .safetensors for OUT, got {str(target)!r}")
    if target.exists():
        raise UserError(f"{str(target)!r} exists already; remove it or name another file as OUT")
    from segrobust.commands.checkpoints import convert_command

    convert_command(options.file, target, options.half, options.weights, options.trust_checkpoint)


def check_data(options: Namespace) -> None:
    """Tell what the data of a config or a folder hold."""
    folder = Path(options.data).is_dir()
    if folder and options.cfg_options:
        raise UserError(f"--cfg-options changes a config; {options.data!r} is a folder")
    if folder and published(Path(options.data)) is None:
        splits_in(Path(options.data))
    if not folder:
        config_file(options.data)
    from segrobust.commands.data_check import check_data

    check_data(options.data, parse_cfg_options(options.cfg_options), options.num_images)
