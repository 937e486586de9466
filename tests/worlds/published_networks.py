"""Lists the published networks: class, full-size config, and counts of parameters and of layers with adapters."""

from typing import Any

import diffusers

UNET = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
CROSS = {"down": "CrossAttnDownBlock2D", "up": "CrossAttnUpBlock2D"}
XL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20),
    "down_block_types": ("DownBlock2D", CROSS["down"], CROSS["down"]), "cross_attention_dim": 2048,
    "up_block_types": (CROSS["up"], CROSS["up"], "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
MEDIUM = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
    "num_attention_heads": 24, "attention_head_dim": 64, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}  # fmt: skip
DEV = {"guidance_embeds": True}  # the class's defaults are FLUX.1's
PUBLISHED: dict[str, tuple[Any, dict[str, Any], int, int]] = {  # class, config, parameters, adapted layers
    "sd15": (diffusers.UNet2DConditionModel, UNET, 859_520_964, 16 * 2 * 4),
    "sdxl": (diffusers.UNet2DConditionModel, XL, 2_567_463_684, 70 * 2 * 4),
    "sd3": (diffusers.SD3Transformer2DModel, MEDIUM, 2_243_171_520, 24 * 4 + 13 * 4),
    "flux": (diffusers.FluxTransformer2DModel, DEV, 11_901_408_320, 19 * 4 + 38 * 3),
}
