"""Tiny random text-to-image checkpoints that have the classes, files and keys of the published ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)  # fmt: skip
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)  # fmt: skip

SIDE = 16  # pixels of an image, 8 latents
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def sd15(folder: Path) -> Path:
    """Write a StableDiffusionPipeline with the scheduler config of the published one."""
    torch.manual_seed(0)
    scheduler = PNDMScheduler(**BETAS, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1)
    scheduler.register_to_config(clip_sample=False)
    pipeline = StableDiffusionPipeline(
        vae=vae(4, 0.18215), text_encoder=clip(CLIPTextModel, 16), tokenizer=words(), unet=unet_sd15(),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return saved(pipeline, folder)


def sdxl(folder: Path) -> Path:
    """Write a StableDiffusionXLPipeline; the published scheduler is Euler's, with a few keys of DDIM's config."""
    torch.manual_seed(0)
    scheduler = EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    scheduler.register_to_config(clip_sample=False, set_alpha_to_one=False, skip_prk_steps=True)
    pipeline = StableDiffusionXLPipeline(
        vae=vae(4, 0.13025), text_encoder=clip(CLIPTextModel, 16), tokenizer=words(),
        text_encoder_2=clip(CLIPTextModelWithProjection, 24), tokenizer_2=words(pad_token="!"), unet=unet_sdxl(),
        scheduler=scheduler, force_zeros_for_empty_prompt=True, add_watermarker=False,
    )  # fmt: skip
    return saved(pipeline, folder)


def sd3(folder: Path) -> Path:
    """Write a StableDiffusion3Pipeline with all three text encoders."""
    torch.manual_seed(0)
    pipeline = StableDiffusion3Pipeline(
        vae=vae(16, 1.5305, 0.0609), text_encoder=clip(CLIPTextModelWithProjection, 16), tokenizer=words(),
        text_encoder_2=clip(CLIPTextModelWithProjection, 24), tokenizer_2=words(pad_token="!"),
        text_encoder_3=t5(48), tokenizer_3=pieces(), transformer=transformer_sd3(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip
    return saved(pipeline, folder)


def flux(folder: Path) -> Path:
    """Write a FluxPipeline with FLUX.1-dev's scheduler."""
    torch.manual_seed(0)
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
        max_image_seq_len=4096,
    )  # fmt: skip
    pipeline = FluxPipeline(
        vae=vae(16, 0.3611, 0.1159), text_encoder=clip(CLIPTextModel, 16), tokenizer=words(), text_encoder_2=t5(48),
        tokenizer_2=pieces(), transformer=transformer_flux(), scheduler=scheduler,
    )  # fmt: skip
    return saved(pipeline, folder)


MAKERS: dict[str, Callable[[Path], Path]] = {"sd15": sd15, "sdxl": sdxl, "sd3": sd3, "flux": flux}
UNET: dict[str, Any] = {
    "sample_size": 24, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
    "norm_num_groups": 4, "attention_head_dim": 2,
}  # fmt: skip


def unet_sd15() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **UNET, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=16,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip


def unet_sdxl() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **UNET, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=40,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
    )  # fmt: skip


UNET_OF = {"sd15": unet_sd15, "sdxl": unet_sdxl}


def transformer_sd3() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2, num_attention_heads=2,
        attention_head_dim=8, joint_attention_dim=48, caption_projection_dim=16, pooled_projection_dim=40,
        pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip


def transformer_flux() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6), guidance_embeds=True,
    )  # fmt: skip


def vae(channels: int, scale: float, shift: float | None = None) -> AutoencoderKL:
    """Return an autoencoder with two pixels per latent along a side."""
    return AutoencoderKL(
        latent_channels=channels, block_out_channels=(8, 16), norm_num_groups=4, sample_size=SIDE,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=scale, shift_factor=shift, use_quant_conv=shift is None, use_post_quant_conv=shift is None,
    )  # fmt: skip


def clip(kind: Any, width: int) -> nn.Module:
    """Return a CLIP text encoder of class `kind` for the vocabulary of `words`."""
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=2, vocab_size=514,
        projection_dim=width, bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )  # fmt: skip
    return kind(config)


def words(**options: Any) -> CLIPTokenizer:
    """Return a CLIP tokenizer whose vocabulary is bytes, bytes that end a word, start and end."""
    letters = sorted(ByteLevel.alphabet())
    every = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: k for k, word in enumerate(every)}, merges=[], model_max_length=77, **options)


def t5(width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=140, feed_forward_proj="gated-gelu"
        )
    )


def pieces() -> T5Tokenizer:
    """Return a T5 tokenizer whose vocabulary is T5's special tokens and single letters."""
    letters = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    specials = [(f"<extra_id_{k}>", 0.0) for k in range(99, -1, -1)]
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters, *specials])


def saved(pipeline: Any, folder: Path) -> Path:
    """Write the pipeline's folder with random norms and biases, and return it."""
    with torch.no_grad():
        for part in pipeline.components.values():
            for weight in part.parameters() if isinstance(part, nn.Module) else ():
                if weight.ndim == 1:
                    weight += 0.1 * torch.randn_like(weight)
    pipeline.save_pretrained(folder)
    return folder


def lcm_lora(unet: UNet2DConditionModel, file: Path) -> Path:
    """Write a consistency LoRA as published: kohya's names, rank 3, alpha 1.5, convolutions and projections too."""
    torch.manual_seed(1)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "conv1", "conv_shortcut"]
    unet.add_adapter(LoraConfig(r=3, lora_alpha=1.5, target_modules=targets, init_lora_weights=False))
    sides, converted = {"lora_A": "lora_down", "lora_B": "lora_up"}, {}
    for key, value in get_peft_model_state_dict(unet, adapter_name="default").items():
        module, side, _ = key.rsplit(".", 2)
        name = "lora_unet_" + module.replace(".", "_")
        converted[f"{name}.{sides[side]}.weight"] = 0.3 * value
        converted[f"{name}.alpha"] = torch.tensor(1.5)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(converted, file)
    return file
