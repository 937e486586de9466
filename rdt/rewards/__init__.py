"""Rewards score images (B, 3, H, W) in [0, 1] for B prompts: (B,), raw as published."""
