"""Pretraining of the embedded world: every bundled weight from a seed, stage by stage, resumable."""
