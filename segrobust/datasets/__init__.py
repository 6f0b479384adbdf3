"""Data: what mmseg lacks (CamVid, the synthetic scenes, a plain folder), targets, and the source that a run reads."""
