# The attacks that SemSegBench and CosPGD's paper publish for OpenMMLab's SegFormers on ADE20K, beside their numbers.
#
#     export SEGROBUST_OPENMMLAB=DIR  # of the .pth files, called as OpenMMLab publishes them
#     export SEGROBUST_ADE=DIR        # ADEChallengeData2016 of the official archive
#     segrobust benchmark configs/benchmarks/golden/segformer_ade.py --only segformer_mit-b0_8xb2-160k_ade20k-512x512
#
# Images as mmseg's test pipeline makes them, scores at the labels' own size, 150 classes. CosPGD's numbers are of B0
# alone. Nothing of this was run by segrobust's authors.
_files = "{{$SEGROBUST_OPENMMLAB:SEGROBUST_OPENMMLAB_is_not_set}}"
_options = dict(data_root="{{$SEGROBUST_ADE:SEGROBUST_ADE_is_not_set}}", metric_size="original")
name = "golden-segformer-ade"
golden = "all.json"
models = [
    dict(
        name=f"segformer_mit-{_size}_8xb2-160k_ade20k-512x512",
        model=f"mmseg::segformer/segformer_mit-{_size}_8xb2-160k_ade20k-512x512.py",
        checkpoint=f"{_files}/segformer_mit-{_size}_512x512_160k_ade20k_{_ending}.pth",
        recipe="standard",
        options=_options,
    )
    for _size, _ending in (
        ("b0", "20210726_101530-8ffa8fda"),
        ("b1", "20210726_112106-d70e859d"),
        ("b2", "20210726_112103-cbd414ac"),
        ("b3", "20210726_081410-962b98d2"),
        ("b4", "20210728_183055-7f509d7d"),
        ("b5", "20210726_145235-94cedf59"),
    )
]
_last = "step_size=0.01, keep=last"
_attacks = ("CEPGD", "SegPGD", "CosPGD")
studies = [
    dict(
        name="semsegbench",
        attacks=[f"{_attack}:published(steps=20, {_last})" for _attack in _attacks],
        eps=["4/255", "8/255"],
    ),
    dict(
        name="cospgd",
        attacks=[f"{_attack}:published(steps={_steps}, {_last})" for _attack in _attacks for _steps in (3, 10, 100)],
        eps=["2/255", "8/255"],
    ),
]
