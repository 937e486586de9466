"""Reward models: images (B, 3, H, W) in [0, 1] and B prompts -> (B,) raw published scores."""
