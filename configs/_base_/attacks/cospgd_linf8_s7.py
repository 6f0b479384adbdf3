# CosPGD-AT as in the tables of RP-PGD (AAAI 2025): radius 0.03, step 0.01, noise at the start; with clean_ratio=0.5.
adversary = dict(
    type="CosPGD", eps="8/255", steps=7, step_size=0.01, optimiser="pgd", radius_reduction=False, keep="last"
)
