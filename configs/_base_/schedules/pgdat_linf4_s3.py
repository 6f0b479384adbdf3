# Adversarial training beside any schedule: every batch is attacked, and robust mIoU is followed. One iteration costs
# about 3.3 standard ones; a start from standard weights (load_from) is far shorter than one from random ones.
adversary = dict(type="TsallisPGD", eps="4/255", steps=3, optimiser="pgd", radius_reduction=False, keep="last")
custom_hooks = [
    dict(type="AdversarialTrainingHook", attack=adversary, eps_warmup=2000),
    dict(
        type="RobustValidationHook",
        attack=dict(type="TsallisPGD", eps="4/255", steps=10, optimiser="pgd", radius_reduction=False),
        num_images=25,
    ),
]
