# Three networks that others trained and no one here tuned an attack to (examples/own_network): ENet on CamVid at
# 360x480, ENet and DABNet on Cityscapes at 1024x512. `Standard` and `SEA` at equal passes (450 steps; SEA 150 for each
# of its three losses), and the smallest change by ALMA-prox. Without trust checks: about three hours of one core.
#
#     export SEGROBUST_OWN_NETWORK=DIR  # the three files that examples/own_network/README.md tells where to find
#     export SEGROBUST_CAMVID=DIR       # images/test, labels/test: ids 0 to 10, 255 for void
#     export SEGROBUST_CITYSCAPES_1024=DIR  # images/val, labels/val at 1024x512: trainIds, 255 for void
#     segrobust benchmark configs/benchmarks/own_network.py
_weights = "{{$SEGROBUST_OWN_NETWORK:SEGROBUST_OWN_NETWORK_is_not_set}}"
_camvid = dict(
    data="{{$SEGROBUST_CAMVID:SEGROBUST_CAMVID_is_not_set}}", num_classes=11, keep_classes=list(range(11)), num_images=4
)
_cityscapes = dict(
    data="{{$SEGROBUST_CITYSCAPES_1024:SEGROBUST_CITYSCAPES_1024_is_not_set}}",
    num_classes=19,
    mean=[0.485, 0.456, 0.406],
    std=[0.229, 0.224, 0.225],
    num_images=2,
)
_folder = "../../examples/own_network"
name = "own-network"
models = [
    dict(
        name="enet-camvid",
        model=f"{_folder}/enet_camvid.py:build",
        checkpoint=f"{_weights}/enet_camvid/ENet_default",
        paper="arXiv 1606.02147",
        options=_camvid,
    ),
    dict(
        name="enet-cityscapes",
        model=f"{_folder}/enet_dabnet_cityscapes.py:enet",
        checkpoint=f"{_weights}/enet_cityscapes/enet_crop-1024_800epoch.pth",
        paper="arXiv 1606.02147",
        options=_cityscapes,
    ),
    dict(
        name="dabnet-cityscapes",
        model=f"{_folder}/enet_dabnet_cityscapes.py:dabnet",
        checkpoint=f"{_weights}/dabnet_cityscapes/dabtnet_crop-1024_800epoch.pth",
        paper="arXiv 1907.11357",
        options=_cityscapes,
    ),
]
_quick = dict(checks=False, pictures=False)
_eps = ["0.5/255", "1/255", "2/255"]
studies = [
    dict(name="standard", attacks=["Standard"], eps=_eps, **_quick),
    dict(name="sea", attacks=["SEA(steps=150)"], eps=["0.5/255", "1/255"], **_quick),
    dict(name="min-norm", attacks=["ALMAProx"], eps=[], **_quick),
]
