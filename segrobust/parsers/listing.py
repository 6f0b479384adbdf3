"""``segrobust attacks``, ``models``, ``checkpoint`` and ``data``: what there is, and what is in a file."""

from __future__ import annotations

from segrobust.commands import run
from segrobust.commands.inputs import CONFIG, OR_FUNCTION, WEIGHTS
from segrobust.commands.parsing import Parser, checked, file, out_file
from segrobust.core.options import one_of, whole
from segrobust.datasets.layouts import LAYOUTS, PLAIN
from segrobust.parsers.common import as_json, cfg_options, command, trust_checkpoint


def attacks(commands) -> None:
    what = "list the attacks, or what can be set of one"
    parser = command(commands, "attacks", what, run.attacks, "segrobust attacks", "segrobust attacks tsallis-pgd")
    parser.add_argument("name", metavar="NAME", nargs="?", help="an attack")


def models(commands) -> None:
    parser = command(
        commands,
        "models",
        "list the shipped and the published models, or all about one",
        run.models,
        "segrobust models",
        "segrobust models pirat-upernet-convnext-t-voc",
        "segrobust models --json",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a model")
    as_json(parser)


def checkpoint(commands) -> None:
    parser = command(
        commands,
        "checkpoint",
        "look into a checkpoint or make it safe to share",
        None,
        "segrobust checkpoint inspect weights.pth",
        "segrobust checkpoint convert weights.pth weights.safetensors",
    )
    actions = parser.add_subparsers(metavar="action", required=True, parser_class=Parser)
    parser.commands = actions.choices
    inspect = command(
        actions,
        "inspect",
        "tell what a checkpoint holds and which model it fits, without running its code",
        run.inspect,
        "segrobust checkpoint inspect weights.pth",
        "segrobust checkpoint inspect weights.pth --model configs/NAME.py my_net.py:build",
        "segrobust checkpoint inspect weights.pth --json",
    )
    inspect.add_argument("file", metavar="FILE", type=file)
    compare = f"compare with these too: {OR_FUNCTION}"
    inspect.add_argument("--model", metavar="MODEL", nargs="+", action="extend", default=[], help=compare)
    as_json(inspect)
    trust_checkpoint(inspect)
    convert = command(
        actions,
        "convert",
        "turn a checkpoint's weights into safetensors, which cannot hold code",
        run.convert,
        "segrobust checkpoint convert weights.pth",
        "segrobust checkpoint convert weights.pth small.safetensors --half",
        "segrobust checkpoint convert weights.pth averaged.safetensors --weights ema",
    )
    convert.add_argument("file", metavar="FILE", type=file)
    what = "a file that is not there yet (default: FILE with the ending .safetensors)"
    convert.add_argument("out", metavar="OUT", type=out_file, nargs="?", help=what)
    convert.add_argument("--weights", type=checked(one_of("ema", "raw")), metavar="{ema,raw}", help=WEIGHTS)
    convert.add_argument("--half", action="store_true", help="half precision: half the size")
    trust_checkpoint(convert)


def data(commands) -> None:
    parser = command(
        commands, "data", "look into data before anything is run on them", None, "segrobust data check FOLDER"
    )
    actions = parser.add_subparsers(metavar="action", required=True, parser_class=Parser)
    parser.commands = actions.choices
    check = command(
        actions,
        "check",
        "tell what data hold: counts, sizes, ids and the classes they become, void; what is missing or wrong",
        run.check_data,
        "segrobust data check configs/NAME.py",
        "segrobust data check /data/cityscapes",
        "segrobust data check /data/VOCdevkit/VOC2012",
        "segrobust data check mmseg::_base_/datasets/ade20k.py --cfg-options val_dataloader.dataset.data_root=DIR",
    )
    check.epilog += "\n\n".join(["\n\nexit status: 0 all is there; 1 something is missing or wrong; 2 no such data\n\n"
                                 "how data are laid out:", *(layout.text for layout in LAYOUTS), PLAIN])  # fmt: skip
    check.add_argument("data", metavar="CONFIG|FOLDER", help=f"{CONFIG}; or a folder of data")
    what = "look into so many files of each data set, evenly spaced (default: all)"
    check.add_argument("--num-images", type=checked(whole(1)), metavar="N", help=what)
    cfg_options(check)
