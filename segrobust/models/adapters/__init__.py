"""Segmenters of every origin."""
