"""Stable Diffusion 3's transformer, a rectified flow: the embedded world's twin, which borrows its base's encoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from rdt import checkpoints
from rdt.models.sd15 import image_decoder, token_ids
from rdt.policy import Adapter, Cond, Parts, Policy
from rdt.process import Flow


def build(
    *, source: str, companion: str, sampler: str, rank: int, alpha: int, targets: Sequence[str], checkpointing: bool
) -> Policy:
    """The policy over the transformer and scheduler in `source`, with text encoder and autoencoder of `companion`."""
    made = parts(checkpoints.locate(source), checkpoints.locate(companion), sampler)
    policy = Policy(made, Adapter(rank, alpha, targets))
    if checkpointing:
        policy.checkpoint_blocks()
    return policy


def parts(folder: Path, companion: Path, sampler: str) -> Parts:
    """The pieces of a transformer's folder and of a Stable Diffusion folder with its latents; float32."""
    network = _load(SD3Transformer2DModel, folder, "transformer")
    text_encoder, vae = _load(CLIPTextModel, companion, "text_encoder"), _load(AutoencoderKL, companion, "vae")
    tokenizer = CLIPTokenizer.from_pretrained(companion, subfolder="tokenizer", local_files_only=True)
    scheduler = FlowMatchEulerDiscreteScheduler.load_config(folder, subfolder="scheduler", local_files_only=True)

    def encode(prompts: list[str]) -> Cond:
        text = text_encoder(token_ids(tokenizer, prompts).to(text_encoder.device))
        return Cond(text.last_hidden_state, text.pooler_output)

    return Parts(
        network=network,
        predict=predict,
        process=Flow(shift=scheduler["shift"], sampler=sampler),
        encode=encode,
        decode=image_decoder(vae),
        frozen=nn.ModuleList([text_encoder, vae]),
        latent_shape=(network.config.in_channels, network.config.sample_size, network.config.sample_size),
        save_lora=save_lora,
    )


def predict(network: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The velocity (B, *latent); the network counts time to 1000."""
    timestep = (1000 * t).to(x.device, non_blocking=True).expand(len(x))
    return network(x, cond.embeds, cond.pooled, timestep, return_dict=False)[0]


def save_lora(weights: dict[str, Tensor], metadata: dict[str, Any], folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors`, which stock diffusers' `load_lora_weights` reads."""
    StableDiffusion3Pipeline.save_lora_weights(
        folder, transformer_lora_layers=weights, transformer_lora_adapter_metadata=metadata
    )


def _load(model: Any, folder: Path, name: str) -> Any:
    return model.from_pretrained(folder, subfolder=name, local_files_only=True).float()
