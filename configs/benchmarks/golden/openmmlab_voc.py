# Clean scores of OpenMMLab's checkpoints on VOC 2012 beside those that OpenMMLab publishes: a first look at whether
# data, weights and labels are read as they should be. No attack.
#
#     export SEGROBUST_OPENMMLAB=DIR  # of the .pth files, called as OpenMMLab publishes them
#     export SEGROBUST_VOC=DIR        # VOC2012 of the official archive
#     segrobust benchmark configs/benchmarks/golden/openmmlab_voc.py
#
# Images as mmseg's test pipeline makes them, scores at the labels' own size. Nothing of this was run by segrobust's
# authors.
_files = "{{$SEGROBUST_OPENMMLAB:SEGROBUST_OPENMMLAB_is_not_set}}"
_options = dict(data_root="{{$SEGROBUST_VOC:SEGROBUST_VOC_is_not_set}}", metric_size="original")
name = "golden-openmmlab-voc"
golden = "all.json"
models = [
    dict(
        name=_name,
        model=f"mmseg::{_family}/{_name}.py",
        checkpoint=f"{_files}/{_file}",
        recipe="standard",
        options=_options,
    )
    for _family, _name, _file in (
        (
            "pspnet",
            "pspnet_r50-d8_4xb4-20k_voc12aug-512x512",
            "pspnet_r50-d8_512x512_20k_voc12aug_20200617_101958-ed5dfbd9.pth",
        ),
        (
            "pspnet",
            "pspnet_r50-d8_4xb4-40k_voc12aug-512x512",
            "pspnet_r50-d8_512x512_40k_voc12aug_20200613_161222-ae9c1b8c.pth",
        ),
        (
            "pspnet",
            "pspnet_r101-d8_4xb4-40k_voc12aug-512x512",
            "pspnet_r101-d8_512x512_40k_voc12aug_20200613_161222-bc933b18.pth",
        ),
        (
            "deeplabv3",
            "deeplabv3_r50-d8_4xb4-40k_voc12aug-512x512",
            "deeplabv3_r50-d8_512x512_40k_voc12aug_20200613_161546-2ae96e7e.pth",
        ),
        (
            "deeplabv3plus",
            "deeplabv3plus_r50-d8_4xb4-40k_voc12aug-512x512",
            "deeplabv3plus_r50-d8_512x512_40k_voc12aug_20200613_161759-e1b43aa9.pth",
        ),
        (
            "deeplabv3plus",
            "deeplabv3plus_r101-d8_4xb4-40k_voc12aug-512x512",
            "deeplabv3plus_r101-d8_512x512_40k_voc12aug_20200613_205333-faf03387.pth",
        ),
        ("hrnet", "fcn_hr48_4xb4-40k_voc12aug-512x512", "fcn_hr48_512x512_40k_voc12aug_20200613_222111-1b0f18bc.pth"),
        ("fcn", "fcn_r50-d8_4xb4-40k_voc12aug-512x512", "fcn_r50-d8_512x512_40k_voc12aug_20200613_161222-5e2dbf40.pth"),
        (
            "upernet",
            "upernet_r50_4xb4-40k_voc12aug-512x512",
            "upernet_r50_512x512_40k_voc12aug_20200613_162257-ca9bcc6b.pth",
        ),
    )
]
studies = [dict(name="clean", attacks=[])]
