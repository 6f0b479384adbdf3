# FGSM with a random start, whose one step is 1.25 radii long (Wong et al., 2020, arXiv 2001.03994).
adversary = dict(
    type="CEPGD", eps="4/255", steps=1, step_size="5/255", optimiser="pgd", radius_reduction=False, keep="last"
)
