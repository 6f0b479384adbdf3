# PIR-AT's attack (arXiv 2306.12941): 5 steps of 0.01 from the clean image, the last iterate.
adversary = dict(
    type="CEPGD",
    eps="4/255",
    steps=5,
    step_size=0.01,
    random_start=False,
    optimiser="pgd",
    radius_reduction=False,
    keep="last",
)
