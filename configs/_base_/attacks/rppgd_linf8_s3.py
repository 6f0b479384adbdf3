# RP-PGD-AT as published (AAAI 2025), the region part: radius 0.03, step 0.01, noise at the start; with clean_ratio=0.5.
adversary = dict(
    type="RPPGD", eps="8/255", steps=3, step_size=0.01, optimiser="pgd", radius_reduction=False, keep="last"
)
