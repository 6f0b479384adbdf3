# A radius per image: the attack stops where a tenth of the pixels that were right has turned wrong, at the cap at last.
adversary = dict(type="ALMAProx", steps=5, step_size="1/255", step_decay=1.0, eps_max="4/255", target_apsr=0.1)
