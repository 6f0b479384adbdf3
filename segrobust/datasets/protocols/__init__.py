"""Protocols by name: how a paper prepares images and labels before it attacks and measures. Imports no torch."""

from segrobust.datasets.protocols.table import PROTOCOLS, Protocol, at_root

__all__ = ["PROTOCOLS", "Protocol", "at_root"]
