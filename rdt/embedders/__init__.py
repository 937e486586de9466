"""Frozen image embeddings for the metrics: CLIP, DINOv2, Inception, LPIPS and DreamSim, one vector per image."""
