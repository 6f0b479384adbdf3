"""Attacks: frozen objects, ``attack(model, images, labels) -> AttackResult``."""

from segrobust.attacks.base import Attack, AttackContractError, AttackResult
from segrobust.attacks.gradient import ModelError
from segrobust.attacks.registry import ATTACKS, build_attack, register_attack

__all__ = ["ATTACKS", "Attack", "AttackContractError", "AttackResult", "ModelError", "build_attack", "register_attack"]
