"""Standard, the default ensemble: one budget of passes for several weights that go on from each other's best points.

attack = Standard(eps="4/255")                    # 450 passes
result = attack(model, images, labels)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from segrobust.attacks.ensemble import BoundedEnsemble, Member
from segrobust.attacks.gradient_attack import GradientAttack
from segrobust.attacks.segmentation import Goal
from segrobust.attacks.specs import config_of, frozen_spec, frozen_specs, plain_spec
from segrobust.attacks.weights import rarity
from segrobust.core.errors import UserError, unknown_name

STARTS = ("random", "error", "worth")
# CosPGD still moves the pixels that softmax(beta * logits) leaves without a gradient; the third is for mIoU. When few
# pixels are right, they are such pixels, and the wrong ones only distract: masked cross-entropy sees no others.
GO_ON = {"radius_reduction": False, "first_step": 0.5}
MEMBERS: tuple[dict[str, Any], ...] = (
    {"type": "SharpPGD", "share": 9},
    {"type": "CosPGD", "share": 4, "start": "error", **GO_ON, "first_step": 1.0, "track": "error"},
    {"type": "BalancedSharpPGD", "share": 3, "start": "worth", **GO_ON, "track": "ce"},
    {
        **{"type": "SharpPGD", "share": 4, "start": "error", **GO_ON, "beta_start": 2.0, "beta_end": 6.0},
        "few": {"type": "MaskedPGD", **GO_ON},
    },
)
SHARED = ("norm", "targeted", "eps", "seed", "steps", "restarts", "random_start", "keep")  # the ensemble's own


@dataclass(frozen=True, kw_only=True)
class Standard(BoundedEnsemble):
    """The default ensemble: members in a row that share one budget of passes and their best points.

    An image with ``enough`` pixels wrong leaves; the others are attacked on. Candidates are every member's best points
    by error and by worth. Ours, unpublished.

    Args:
        steps: of all members together.
        attacks: configs of the members, in their order: ``dict(type="SharpPGD", share=2, start="error", ...)`` with
            the fields of that attack. share: of the steps, relative to the others'; start: ``"random"`` noise or the
            best points of the members before it, by ``"error"`` or by ``"worth"`` (see :class:`Member`); few: the
            config of the attack that takes its place where few pixels are right.
        balance: power of a class's inverse pixel count in the worth of its pixels.
        enough: share of wrong pixels at which an image leaves.
        few: the share of an image's pixels, still right, that counts as few.
    """

    steps: int = 450
    attacks: tuple[Any, ...] = MEMBERS
    balance: float = 0.5
    enough: float = 1.0
    few: float = 0.01

    kept: ClassVar[tuple[str, ...]] = ("error", "worth")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole(steps=1)
        self._numbers("balance", "enough", "few")
        if not (0 < self.enough <= 1 and 0 <= self.few <= 1):
            raise UserError(f"{self.name}: expected 0 < enough <= 1 and 0 <= few <= 1, got {self.enough}, {self.few}")
        object.__setattr__(self, "attacks", frozen_specs(self.name, self.attacks, SHARED))
        self.members()  # says now what is wrong with them

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "attacks": [plain_spec(spec) for spec in self.attacks]}

    def members(self) -> list[Member]:
        """Those that get at least one step."""
        configs = [config_of(spec) for spec in self.attacks]
        shares = [config.pop("share", 1) for config in configs]
        if any(isinstance(n, bool) or not isinstance(n, int | float) or n <= 0 for n in shares):
            raise UserError(f"{self.name}: expected shares above 0, got {shares}")
        members, done, before = [], 0, 0.0
        for number, (config, share) in enumerate(zip(configs, shares, strict=True)):
            before += share
            steps = round(self.steps * before / sum(shares)) - done
            done += steps
            if steps:
                members.append(self._member(config, steps, number, first=not members))
        return members

    def _member(self, config: dict[str, Any], steps: int, number: int, first: bool) -> Member:
        start, few = config.pop("start", "random"), config.pop("few", None)
        if start not in STARTS:
            raise unknown_name(f"{self.name} start", str(start), STARTS)
        if number == 0 and start != "random":
            raise UserError(f"{self.name}: the first of attacks has no points to start from; leave its start out")
        attack = self._attack_of(config, steps)
        if few is not None:
            few = self._attack_of(config_of(frozen_spec(few, SHARED, f"{self.name} few")), steps)
        names = " or ".join(one.name for one in (attack, few) if one)
        return Member(f"{number + 1} {names}", attack, "random" if first else start, number, few)

    def _attack_of(self, config: dict[str, Any], steps: int) -> GradientAttack:
        if not isinstance(config.get("type"), str):
            raise UserError(f"{self.name}: expected attacks with type=..., got {config!r}")
        return self._build(config.pop("type"), steps, **config)

    def turn(self, member: Member, error: Tensor) -> list[tuple[GradientAttack, Tensor]]:
        active, few = error < self.enough, 1 - error <= self.few
        if not member.few:
            return [(member.attack, active)]
        return [(member.attack, active & ~few), (member.few, active & few)]

    def worth(self, goal: Goal) -> Tensor:
        classes = max(len(self.class_counts or ()), goal.highest + 1)
        return rarity(goal.labels, goal.valid, classes, self.class_counts) ** self.balance
