"""Pretraining of the embedded world builds every bundled weight from a seed, stage by stage, and can be resumed."""
