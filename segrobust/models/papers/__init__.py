"""Networks of published robust checkpoints, with the names of weights that their files have."""
