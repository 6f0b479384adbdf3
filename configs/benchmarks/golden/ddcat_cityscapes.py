# The attacks that are published for DDC-AT's networks on Cityscapes, at their radii, beside the published numbers,
# which contradict each other (all.json).
#
#     export SEGROBUST_DDCAT=DIR       # of the authors' files: the folder that holds pretrain/
#     export SEGROBUST_CITYSCAPES=DIR  # leftImg8bit and gtFine, with the *_labelTrainIds.png of cityscapesScripts
#     segrobust benchmark configs/benchmarks/golden/ddcat_cityscapes.py --only ddcat-pspnet50-cityscapes-ddcat
#
# DDC-AT's authors attack and measure overlapping tiles of 449 of images of 1024x512, whose answers are averaged:
# segrobust has no such protocol. This measures one centre crop of 449, as TsallisPGD's code does, and compares
# one-sided. SegPGD's paper writes 0.03 = 8/255, which it is not: 0.03 is the smaller radius, and is run here. Nothing
# of this was run by segrobust's authors.
_files = "{{$SEGROBUST_DDCAT:SEGROBUST_DDCAT_is_not_set}}"
_data = "{{$SEGROBUST_CITYSCAPES:SEGROBUST_CITYSCAPES_is_not_set}}"
_options = dict(data_root=_data, protocol="city1024x512-crop449")
name = "golden-ddcat-cityscapes"
golden = "all.json"
models = [
    dict(
        name=f"ddcat-{_net}-cityscapes-{_training}",
        model=f"ddcat-{_net}-cityscapes-{_training}",
        checkpoint=f"{_files}/pretrain/cityscapes/{_net_folder}/{_folder}/train_epoch_400{_ending}.pth",
        recipe=_recipe,
        paper="arXiv 2003.06555",
        options=_options,
    )
    for _net, _net_folder, _head in (("pspnet50", "pspnet", "_psp"), ("deeplabv3-50", "deeplabv3", "_aspp"))
    for _training, _folder, _recipe, _ending in (
        ("nodefense", "no_defense", "standard", ""),
        ("sat", "sat", "PGD-AT, half adversarial", _head),
        ("ddcat", "ddcat", "DDC-AT", ""),
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
]
