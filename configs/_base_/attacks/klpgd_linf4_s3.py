# The attack inside TRADES, for loss=dict(type="TRADES"): one forward more than the others, of the clean images.
adversary = dict(type="KLPGD", eps="4/255", steps=3, optimiser="pgd", radius_reduction=False, keep="last")
