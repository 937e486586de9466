"""Rewards give images (B, 3, H, W) in [0, 1] and their B prompts scores (B,), raw as published."""
