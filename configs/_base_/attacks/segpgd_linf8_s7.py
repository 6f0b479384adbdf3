# SegPGD-AT as published (arXiv 2207.12391): radius 0.03, step 0.01, noise at the start; with clean_ratio=0.5.
adversary = dict(
    type="SegPGD", eps="8/255", steps=7, step_size=0.01, optimiser="pgd", radius_reduction=False, keep="last"
)
