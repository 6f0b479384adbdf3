"""Attacks: frozen objects, ``attack(model, images, labels) -> AttackResult``. Importing this registers all of ours."""

from importlib import import_module
from pkgutil import iter_modules

from segrobust.attacks.base import Attack, AttackContractError, AttackResult
from segrobust.attacks.gradient import ModelError
from segrobust.attacks.registry import ATTACKS, build_attack, register_attack

__all__ = ["ATTACKS", "Attack", "AttackContractError", "AttackResult", "ModelError", "build_attack", "register_attack"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
