"""What makes SharpPGD and Standard strong: each with one thing changed, at equal passes, on validation images.

    python benchmarks/ablation.py SharpPGD [--steps 100] [--models std robust] [--eps 1/255 4/255] [--num-images 8]
    python benchmarks/ablation.py Standard --steps 450
    torchrun --nproc_per_node 2 benchmarks/ablation.py SharpPGD                          # two processes, same rows

Columns are those of ensemble.py. Each variant is a run folder: kill the script and start it again, it goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from fractions import Fraction

from ensemble import add_options, compare

from segrobust.attacks.standard import MEMBERS, Member

SHARP = {
    "SharpPGD": {},
    "beta 1 (Tsallis, q = 0)": {"beta_end": 1.0},
    "beta 1 to 2": {"beta_end": 2.0},
    "beta 1 to 6": {"beta_end": 6.0},
    "beta 2 to 8": {"beta_start": 2.0, "beta_end": 8.0},
    "beta 0.3 to 3": {"beta_start": 0.3},
    "beta over the whole run": {"scope": "run"},
    "step control on cross-entropy": {"track": "ce"},
    "first step of two radii": {"first_step": 2.0},
    "both": {"track": "ce", "first_step": 2.0},
    "hands the lowest CE over": {"handover": "ce"},
    "first step of half a radius": {"first_step": 0.5},
    "no larger radii first": {"radius_reduction": False},
    "PGD, cosine steps": {"optimiser": "pgd", "step_schedule": "cosine", "radius_reduction": False},
    "classes balanced, power 0.5": {"type": "BalancedSharpPGD"},
    "classes balanced, power 1": {"type": "BalancedSharpPGD", "balance": 1.0},
}


def changed(member: Member, **fields: object) -> Member:
    return replace(member, attack=replace(member.attack, **fields))


COLD = tuple(replace(changed(one, radius_reduction=True, first_step=1.0), start="random") for one in MEMBERS)
ON_CE = tuple(changed(one, track="ce") for one in MEMBERS)
ON_ERROR = tuple(changed(one, track="error") for one in MEMBERS)
FIRST_ON_CE = changed(ON_CE[0], first_step=2.0)
TOGETHER = {
    "Standard": {},
    **{f"without {n + 1} {MEMBERS[n].attack.name}": {"attacks": MEMBERS[:n] + MEMBERS[n + 1 :]} for n in (1, 2)},
    "members on their own": {"attacks": COLD},
    "the first member three times": {"attacks": MEMBERS[:1] * 3},
    "step control of 1 on cross-entropy": {"attacks": (FIRST_ON_CE, *MEMBERS[1:])},
    "step control of 3 on cross-entropy": {"attacks": (*MEMBERS[:2], ON_CE[2])},
    "step control of all on cross-entropy": {"attacks": (FIRST_ON_CE, *ON_CE[1:])},
    "step control of all on the error": {"attacks": ON_ERROR},
}
VARIANTS = {"SharpPGD": (SHARP, 100), "Standard": (TOGETHER, 450)}  # and how many steps to give them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attack", choices=VARIANTS)
    add_options(parser, "val", 8)
    parser.add_argument("--steps", nargs="+", type=int)
    options = parser.parse_args()
    variants, steps = VARIANTS[options.attack]
    options.known = {name: ({"type": options.attack} | changed, Fraction(1)) for name, changed in variants.items()}
    options.attacks, options.steps = list(variants), options.steps or [steps]
    compare(options)


if __name__ == "__main__":
    main()
