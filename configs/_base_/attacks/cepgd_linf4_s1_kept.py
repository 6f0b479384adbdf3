# One step of half a radius from kept perturbations, which grow over the visits (arXiv 1912.11969: 4/255 of 8/255).
adversary = dict(
    type="CEPGD", eps="4/255", steps=1, step_size="2/255", optimiser="pgd", radius_reduction=False, keep="last"
)
