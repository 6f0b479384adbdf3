"""Checkpoints: one strict reader, and what their layouts mean."""
