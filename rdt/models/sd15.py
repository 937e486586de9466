"""Stable Diffusion 1.5 and every checkpoint of its classes, the embedded world's base model among them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import convert_state_dict_to_diffusers
from torch import Tensor, nn
from transformers import CLIPTokenizer

from rdt import checkpoints
from rdt.policy import Adapter, Cond, Parts, Policy
from rdt.process import Diffusion
from rdt.views import CONSISTENCY


def build(
    *, source: str, consistency: str | None, rank: int, alpha: int, targets: Sequence[str], checkpointing: bool
) -> Policy:
    """The policy over the diffusers folder or hub id `source`, with the LCM LoRA `consistency` where there is one."""
    made = parts(checkpoints.locate(source))
    if consistency is not None:
        _load_consistency(made.network, checkpoints.locate(consistency))
    policy = Policy(made, Adapter(rank, alpha, targets))
    if checkpointing:
        policy.checkpoint_blocks()
    return policy


def parts(folder: Path) -> Parts:
    """The pieces of a StableDiffusionPipeline folder; float32."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, safety_checker=None, local_files_only=True
    )
    unet, vae, text_encoder, tokenizer = pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer
    if unet.config.sample_size <= 16:
        unet.set_attn_processor(AttnProcessor())  # on so few tokens plain attention is the faster one

    def encode(prompts: list[str]) -> Cond:
        return Cond(text_encoder(token_ids(tokenizer, prompts).to(text_encoder.device)).last_hidden_state)

    return Parts(
        network=unet,
        predict=_predict,
        process=_process(pipeline.scheduler.config),
        encode=encode,
        decode=image_decoder(vae),
        frozen=nn.ModuleList([text_encoder, vae]),
        latent_shape=(unet.config.in_channels, unet.config.sample_size, unet.config.sample_size),
        save_lora=save_lora,
    )


def token_ids(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """(B, L), padded and cut to what the text encoder takes."""
    length = tokenizer.model_max_length
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def image_decoder(vae: AutoencoderKL) -> Callable[[Tensor], Tensor]:
    """From scaled latents to images (B, 3, H, W) in [0, 1]."""

    def decode(x0: Tensor) -> Tensor:
        return (vae.decode(x0 / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)

    return decode


def save_lora(weights: dict[str, Tensor], metadata: dict[str, Any], folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors`, which stock diffusers' `load_lora_weights` reads."""
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=convert_state_dict_to_diffusers(weights),
        unet_lora_adapter_metadata=metadata,
    )


def _predict(network: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    return network(x, t.to(x.device, non_blocking=True), cond.embeds, return_dict=False)[0]


def _process(config: Any) -> Diffusion:
    from diffusers import DDIMScheduler

    return Diffusion(
        alphas_cumprod=DDIMScheduler.from_config(config).alphas_cumprod,
        prediction=config.prediction_type,
        set_alpha_to_one=False,  # as Stable Diffusion: the last step keeps a little noise, so its density exists
        steps_offset=config.steps_offset,
    )


def _load_consistency(unet: UNet2DConditionModel, file: Path) -> None:
    try:
        state, alphas = StableDiffusionPipeline.lora_state_dict(
            file.parent, weight_name=file.name, local_files_only=True
        )
        StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet, adapter_name=CONSISTENCY)
    except Exception as error:  # diffusers and peft raise whatever they trip over
        raise ValueError(f"consistency adapter {file} does not fit this model: {error}") from None
