# The attacks that are published for PIR-AT's networks on VOC 2012, at their radii, beside the published numbers.
#
#     export SEGROBUST_PIRAT=DIR  # of the authors' files, called as below
#     export SEGROBUST_VOC=DIR    # the official archive, VOCdevkit or VOC2012 in it
#     segrobust benchmark configs/benchmarks/golden/pirat_voc.py --only pirat-upernet-convnext-t-voc/sea
#
# Passes per image and model: sea 2700, losses 2700, segpgd 900, sea-v1 2400, cospgd 3280. The classes are counted in
# the labels of the archive's train list; the authors trained on the augmented one. pirat-pspnet50-voc has no published
# file: add it here if you have one. Nothing of this was run by segrobust's authors.
_files, _data = "{{$SEGROBUST_PIRAT:SEGROBUST_PIRAT_is_not_set}}", "{{$SEGROBUST_VOC:SEGROBUST_VOC_is_not_set}}"
_options = dict(data_root=_data, cfg_options=["attack_defaults.BalancedPGD.class_counts=train"])
name = "golden-pirat-voc"
golden = "all.json"
models = [
    dict(
        name=_name,
        model=_name,
        checkpoint=f"{_files}/{_file}",
        recipe="PIR-AT",
        paper="arXiv 2306.12941",
        options=_options,
    )
    for _name, _file in (
        ("pirat-upernet-convnext-t-voc", "UperNet_ConvNext_T_VOC.pth"),
        ("pirat-upernet-convnext-s-voc", "UperNet_ConvNext_S_VOC.pth"),
    )
]
_radii = ["4/255", "8/255", "12/255"]
studies = [
    dict(name="sea", attacks=["SEA"], eps=_radii),
    dict(name="losses", attacks=["JSPGD", "MaskedPGD", "BalancedPGD"], eps=_radii),
    dict(name="segpgd-4", attacks=["SegPGD:published(steps=300, step_size=0.003, keep=best)"], eps=["4/255"]),
    dict(name="segpgd-8", attacks=["SegPGD:published(steps=300, step_size=0.005, keep=best)"], eps=["8/255"]),
    dict(name="segpgd-12", attacks=["SegPGD:published(steps=300, step_size=0.006, keep=best)"], eps=["12/255"]),
    dict(name="sea-v1", attacks=["SEA(losses=v1)"], eps=["4/255", "8/255"]),
    dict(
        name="cospgd",
        attacks=[f"{_attack}(steps={_steps})" for _attack in ("CosPGD", "SegPGD") for _steps in (10, 100, 300)],
        eps=[*_radii, "16/255"],
    ),
]
