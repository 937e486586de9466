"""Builds Stable Diffusion 1.5 and every checkpoint of its classes, among them the embedded world's base model."""

from functools import partial
from pathlib import Path

from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from rdt.models import lora, pipeline
from rdt.models.schedules import diffusion
from rdt.models.text import Pipeline, Text, Widths, encoders
from rdt.policy import PLAIN, Adapter, Cond, Parts, Policy, Setup

FIXED = {"steps_offset": 1, "clip_sample": False}  # settings that the stock pipeline sets, whatever the folder says
UNREAD = ("shift_factor", "latents_mean", "latents_std")  # settings of the autoencoder that it ignores


def build(
    *, source: str, consistency: str | None, adapter: Adapter, checkpointing: bool, setup: Setup = PLAIN
) -> Policy:
    """Return the policy over the diffusers folder or hub id `source`, with the LCM LoRA `consistency` unless None."""
    pieces = parts(pipeline.located(source, "unet", "vae", "text_encoder"), setup)
    if consistency is not None:
        lora.load_consistency(StableDiffusionPipeline, pieces.network, consistency)
    return pipeline.assembled(pieces, adapter, checkpointing, setup)


def parts(folder: Path, setup: Setup = PLAIN) -> Parts:
    """Return the pieces of a StableDiffusionPipeline folder."""
    pipeline.declared(folder, StableDiffusionPipeline)
    process, vae = diffusion(folder, FIXED), pipeline.autoencoder(folder, setup, UNREAD)
    unet = pipeline.unet(folder, setup, vae, None)
    side = pipeline.latent_side(folder, "unet", unet.config.sample_size, setup)
    if side is not None and side <= 16:
        unet.set_attn_processor(AttnProcessor())  # on so few tokens plain attention is faster
    widths = Widths(unet.config.cross_attention_dim, None)
    text = encoders(Text(folder, {StableDiffusionPipeline: encode}), unet, widths, setup)
    return text.beside(vae, setup)(
        network=unet,
        predict=predict,
        process=process,
        latent_shape=pipeline.latent_shape(side, 1, vae, setup),
        save_lora=partial(lora.save_lora, StableDiffusionPipeline, "unet"),
    )


def predict(network: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Return the network's output, (B, *latent)."""
    return network(x.to(pipeline.dtype(network)), t.to(x.device, non_blocking=True), cond.embeds, return_dict=False)[0]


def encode(pipe: Pipeline, tokens: int, prompts: list[str]) -> Cond:
    """Return CLIP's token embeddings; the flow model of the embedded world also reads its pooled output."""
    limit = pipe.tokenizer.model_max_length
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    output = pipe.text_encoder(ids.input_ids.to(pipe.text_encoder.device))
    return Cond(output.last_hidden_state, output.pooler_output)
