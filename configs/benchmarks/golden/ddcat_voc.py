# The attacks that are published for DDC-AT's networks on VOC 2012, at their radii, beside the published numbers, which
# contradict each other (all.json).
#
#     export SEGROBUST_DDCAT=DIR  # of the authors' files: the folder that holds pretrain/
#     export SEGROBUST_VOC=DIR    # the official archive, VOCdevkit or VOC2012 in it
#     segrobust benchmark configs/benchmarks/golden/ddcat_voc.py --only ddcat-pspnet50-voc-ddcat/pgd
#
# DDC-AT's authors attack and measure overlapping tiles of 473 whose answers are averaged (and a flip of clean images):
# segrobust has no such protocol. This measures one centre crop of 473 with 255 ignored, as TsallisPGD's code does, and
# compares one-sided. SegPGD's paper writes 0.03 = 8/255, which it is not: 0.03 is the smaller radius, and is run here.
# Nothing of this was run by segrobust's authors.
_files, _data = "{{$SEGROBUST_DDCAT:SEGROBUST_DDCAT_is_not_set}}", "{{$SEGROBUST_VOC:SEGROBUST_VOC_is_not_set}}"
_options = dict(
    data_root=_data, protocol="voc473-ignore255", cfg_options=["attack_defaults.BalancedPGD.class_counts=train"]
)
name = "golden-ddcat-voc"
golden = "all.json"
models = [
    dict(
        name=f"ddcat-{_net}-voc-{_training}",
        model=f"ddcat-{_net}-voc-{_training}",
        checkpoint=f"{_files}/pretrain/voc2012/{_net_folder}/{_folder}/train_epoch_50.pth",
        recipe=_recipe,
        paper="arXiv 2003.06555",
        options=_options,
    )
    for _net, _net_folder in (("pspnet50", "pspnet"), ("deeplabv3-50", "deeplabv3"))
    for _training, _folder, _recipe in (
        ("nodefense", "no_defense", "standard"),
        ("sat", "sat", "PGD-AT, half adversarial"),
        ("ddcat", "ddcat", "DDC-AT"),
    )
]
_last = "step_size=0.01, keep=last"
studies = [
    dict(
        name="bim",
        attacks=[f"CEPGD:published(steps={_steps}, random_start=false, {_last})" for _steps in (2, 4, 6)],
        eps=["0.03"],
    ),
    dict(
        name="pgd", attacks=[f"CEPGD:published(steps={_steps}, {_last})" for _steps in (10, 20, 40, 100)], eps=["0.03"]
    ),
    dict(
        name="cospgd",
        attacks=[
            *(f"{_attack}:published(steps={_steps})" for _attack in ("CosPGD", "SegPGD") for _steps in (2, 4, 6, 10)),
            f"CEPGD:published(steps=10, random_start=false, {_last})",
        ],
        eps=["8/255"],
    ),
    dict(name="sea", attacks=["SEA"], eps=["2/255", "4/255", "8/255", "12/255"]),
    dict(name="losses", attacks=["JSPGD", "MaskedPGD", "BalancedPGD"], eps=["2/255", "4/255", "8/255"]),
    dict(name="segpgd-2", attacks=["SegPGD:published(steps=300, step_size=0.002, keep=best)"], eps=["2/255"]),
    dict(name="segpgd-4", attacks=["SegPGD:published(steps=300, step_size=0.003, keep=best)"], eps=["4/255"]),
    dict(name="segpgd-8", attacks=["SegPGD:published(steps=300, step_size=0.005, keep=best)"], eps=["8/255"]),
]
