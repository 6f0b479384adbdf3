# The shipped models on CamVid's test images at 180x240: worst case by Standard at four radii, minimum norm by
# ALMA-prox, and all corruptions. 15 to 20 minutes per model on two cores with two processes (`--dry-run` tells for this
# machine):
#   torchrun --nproc_per_node 2 tools/benchmark.py configs/benchmarks/camvid.py
# A new model of segrobust/zoo is one entry here: its name, the recipe and the command that trained it.
#
# CamVid lies in the folder that SEGROBUST_CAMVID names (images/test, labels/test), or in ../shared/data/camvid beside
# the checkout. Where it is not there, every cell fails with one line that says so; benchmarks/smoke.py needs no data.
_train = "segrobust train configs/fpn/fpn_r18w24_1xb8-"
name = "camvid-180x240"
models = [
    dict(
        name="standard",
        model="camvid-fpn-r18w24-std-180x240",
        recipe="standard",
        command=_train + "std-strong-1800_camvid-180x240.py",
    ),
    # four trainings from the standard weights, with equal passes
    dict(
        name="cepgd-at",
        model="camvid-fpn-r18w24-cepgdat-linf4-180x240",
        recipe="CE-PGD-AT",
        command=_train + "cepgdat-linf4-s3-1500_camvid-180x240.py",
    ),
    dict(
        name="tsallispgd-at",
        model="camvid-fpn-r18w24-tsallispgdat-linf4-180x240",
        recipe="TsallisPGD-AT",
        command=_train + "tsallispgdat-linf4-s3-1500_camvid-180x240.py",
    ),
    dict(
        name="sharppgd-at",
        model="camvid-fpn-r18w24-sharppgdat-linf4-180x240",
        recipe="SharpPGD-AT",
        command=_train + "sharppgdat-linf4-s3-1500_camvid-180x240.py",
    ),
    dict(
        name="alma-at",
        model="camvid-fpn-r18w24-almaproxat-linf4-180x240",
        recipe="ALMA-AT",
        command=_train + "almaproxat-linf4-s5-1000_camvid-180x240.py",
    ),
    # two stages of 2400 iterations in all: the mean of both stages' weights, and the second's weights
    dict(
        name="tsallispgd-at-long",
        model="camvid-fpn-r18w24-pgdat-linf4-180x240",
        recipe="TsallisPGD-AT, two stages",
        command=_train + "pgdat-linf4-s3-strong-900_camvid-180x240.py",
    ),
    dict(
        name="sharppgd-at-long",
        model="camvid-fpn-r18w24-sharppgdat-long-linf4-180x240",
        recipe="SharpPGD-AT, two stages",
        command=_train + "sharppgdat-linf4-s3-second-900_camvid-180x240.py",
    ),
]
studies = [
    dict(name="standard", attacks=["Standard"], eps=["1/255", "2/255", "4/255", "8/255"], num_images=32),
    dict(name="min-norm", attacks=["ALMAProx"], eps=[], num_images=32),
    dict(name="corruptions", corruptions=["all"], severity=[1, 3, 5], num_images=32),
]
