adversary = dict(type="RPPGD", eps="4/255", steps=3, optimiser="pgd", radius_reduction=False, keep="last")
