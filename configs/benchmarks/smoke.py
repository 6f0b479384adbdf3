# Does a benchmark work here? Both shipped models on four synthetic scenes, attacked, at the least change and corrupted,
# with all trust checks: under two minutes on two cores, offline, without any data. These models were trained for no
# such scenes, so the scores say little of them; benchmarks/camvid.py is the one to look at.
_scenes = dict(cfg_options=["test_dataloader.dataset.type=CamVidScenes"])
name = "smoke"
models = [
    dict(name="standard", model="camvid-fpn-r18w24-std-180x240", recipe="standard", options=_scenes),
    dict(name="robust", model="camvid-fpn-r18w24-pgdat-linf4-180x240", recipe="TsallisPGD-AT", options=_scenes),
]
studies = [
    dict(name="attacked", attacks=["TsallisPGD", "FMN"], eps=["1/255", "4/255"], steps=20, num_images=4),
    dict(name="corrupted", corruptions=["fog", "gaussian_noise"], severity=[3], num_images=4),
]
