"""What does not look at the model's gradients must not beat what does: noise, black box and transfer."""

from __future__ import annotations

from segrobust.attacks.base import Attack
from segrobust.attacks.registry import ATTACKS, build_attack
from segrobust.checks.again import refuse_transfer, shares_under
from segrobust.checks.context import Context, mean
from segrobust.checks.verdicts import NOISE, PASS, WARN, Check, NotApplicable, Verdict, verdict
from segrobust.core.rows import ATTACK
from segrobust.core.units import format_eps
from segrobust.datasets.classes import plain_names
from segrobust.models.digests import weights_sha256
from segrobust.models.load import load_segmenter
from segrobust.models.mm import load_config
from segrobust.models.segmenter import Segmenter
from segrobust.models.shipped import zoo

BLACK_BOX = "Square"
QUERIES = {False: 4, True: 32}  # noise draws per image, quick and full
BLACK_BOX_QUERIES = {False: 20, True: 500}
TRANSFER = "TsallisPGD"
TRANSFER_STEPS = {False: 5, True: 40}
MANY = 100 / 3  # percent of the images; on one or two a search that sees nothing may be lucky


def blind_search_loses(context: Context) -> Verdict:
    """Noise, searches without a gradient and other models' gradients do not beat the run's attacks."""
    refuse_transfer(context)
    norm, eps = context.radius
    if context.own.targeted:
        raise NotApplicable("noise and black-box searches have no target")
    best = {image: max(s[image] for s in context.at_radius().values() if image in s) for image in context.judged_ids}
    found = {name: shares_under(context, *attack) for name, *attack in _blind_attacks(context, norm, eps)}
    won = {name: 100 * mean(shares[i] > best[i] + NOISE for i in best) for name, shares in found.items()}
    winner, ahead = max(((name, mean(s) - mean(best)) for name, s in found.items()), key=lambda one: one[1])
    share = max(won.values())
    tried = ", ".join(f"{name} {mean(shares):.2f} %" for name, shares in found.items())
    return verdict(
        WARN if ahead > NOISE or share > MANY else PASS,
        f"the run's attacks take {mean(best):.2f} % of the pixels at {format_eps(eps, norm)}; {tried}; "
        f"a blind search wins on {share:.0f} % of {len(best)} images",
        f"{winner} finds what gradients do not: gradients are masked; report the blind result",
        white_box_percent=mean(best),
        tried={name: mean(shares) for name, shares in found.items()},
        images_won_percent=won,
    )


def _blind_attacks(context: Context, norm: str, eps: float) -> list[tuple[str, Attack, Segmenter | None]]:
    """Name, attack, and the model that it attacks instead of the run's."""
    blind = [build_attack("UniformNoise", norm=norm, eps=eps, samples=QUERIES[context.full])]
    if norm in ATTACKS[BLACK_BOX].norms:
        blind.append(build_attack(BLACK_BOX, norm=norm, eps=eps, steps=BLACK_BOX_QUERIES[context.full]))
    transfer = build_attack(TRANSFER, norm=norm, eps=eps, steps=TRANSFER_STEPS[context.full])
    return [
        *((attack.name, attack, None) for attack in blind),
        *((f"{TRANSFER}@{name}", transfer, other) for name, other in _relatives(context).items()),
    ]


def _relatives(context: Context) -> dict[str, Segmenter]:
    """The shipped models that know the data's classes, but for the run's own."""
    own, found = context.identity["weights_sha256"], {}
    names = plain_names(context.source.class_names)
    for name in zoo():
        if load_config(name).model.decode_head.num_classes != context.source.num_classes:
            continue
        model = load_segmenter(name, device=context.bench.device)
        if plain_names(model.class_names) == names and weights_sha256(model) != own:
            found[name] = model
    return found


CHECKS = (Check("noise, black box and transfer lose", blind_search_loses, essential=True, studies=(ATTACK,)),)
