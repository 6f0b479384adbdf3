"""A run: its identity, its folder, and the work of its processes."""
