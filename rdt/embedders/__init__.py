"""What sees images for the metrics: CLIP, DINOv2, LPIPS and DreamSim as frozen embeddings, one vector per image."""
