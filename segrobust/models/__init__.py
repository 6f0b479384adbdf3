"""Models: one contract (``segmenter``), an adapter per origin (``adapters``), strict checkpoints, shipped weights."""
