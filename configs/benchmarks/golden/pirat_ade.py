# The attacks that are published for PIR-AT's networks on ADE20K, at their radii, beside the published numbers.
#
#     export SEGROBUST_PIRAT=DIR  # of the authors' files, called as below
#     export SEGROBUST_ADE=DIR    # the official archive, ADEChallengeData2016 or what holds it
#     segrobust benchmark configs/benchmarks/golden/pirat_ade.py --only pirat-segmenter-vit-s-ade20k/sea
#
# Passes per image and model: sea 2700, losses 2700, segpgd 900, sea-v1 2400. Nothing of this was run by segrobust's
# authors.
_files, _data = "{{$SEGROBUST_PIRAT:SEGROBUST_PIRAT_is_not_set}}", "{{$SEGROBUST_ADE:SEGROBUST_ADE_is_not_set}}"
_options = dict(data_root=_data, cfg_options=["attack_defaults.BalancedPGD.class_counts=train"])
name = "golden-pirat-ade"
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
        ("pirat-upernet-convnext-t-ade20k", "UperNet_ConvNext_T_ADE.pth"),
        ("pirat-upernet-convnext-s-ade20k", "UperNet_ConvNext_S_ADE.pth"),
        ("pirat-segmenter-vit-s-ade20k", "Segmenter_vit_s_robust.pth"),
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
]
