"""Data: what mmseg lacks (CamVid, the synthetic scenes, a plain folder), and what the evaluator reads.

from segrobust.datasets import source_from_config
source = source_from_config("configs/fpn/...py", split="test", num_images=16)
image, label, name = source[0].image, source[0].label, source[0].name
"""

from segrobust.datasets.scenes import write_scenes
from segrobust.datasets.source import Sample, Source, source_from_config

__all__ = ["Sample", "Source", "source_from_config", "write_scenes"]
