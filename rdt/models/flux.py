"""FLUX.1: a rectified flow whose guidance is distilled into the network, which reads latents as patches of 2 x 2."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from rdt.models import lora, pipeline, settings
from rdt.models.schedules import flow, flow_settings
from rdt.models.text import Pipeline, Text, Widths, encoders
from rdt.policy import PLAIN, Adapter, Cond, Parts, Policy, Setup

UNREAD = ("latents_mean", "latents_std")  # settings of the autoencoder that the stock pipeline ignores
GRID = "even"  # the times that the stock pipeline takes
SIZE = 128  # latents along a side, unless the setup has a resolution; no published config has it


def build(
    *,
    source: str,
    guidance: float,
    sampler: str,
    tokens: int,
    adapter: Adapter,
    checkpointing: bool,
    setup: Setup = PLAIN,
) -> Policy:
    """Return the policy over the diffusers folder or hub id `source`; the network takes `guidance` as an input."""
    folder = pipeline.located(source, "transformer", "vae", "text_encoder", "text_encoder_2")
    pieces = parts(folder, guidance, sampler, tokens, setup)
    return pipeline.assembled(pieces, adapter, checkpointing, setup)


def parts(folder: Path, guidance: float, sampler: str, tokens: int, setup: Setup = PLAIN) -> Parts:
    """Return the pieces of a FluxPipeline folder."""
    pipeline.declared(folder, FluxPipeline)
    times, vae = flow_settings(folder, GRID), pipeline.autoencoder(folder, setup, UNREAD)
    channels = 4 * vae.config.latent_channels
    fixed = {"patch_size": 1, "in_channels": channels, "out_channels": (channels, None)}
    settings.require(folder, "transformer", FluxTransformer2DModel, fixed)
    network = pipeline.component(FluxTransformer2DModel, folder, "transformer", setup)
    shape = pipeline.latent_shape(SIZE, 2, vae, setup)
    widths = Widths(network.config.joint_attention_dim, network.config.pooled_projection_dim)
    text = encoders(Text(folder, {FluxPipeline: encode}, tokens), network, widths, setup)
    return text.beside(vae, setup)(
        network=network,
        predict=partial(predict, guidance),
        process=flow(times, shape[1] * shape[2] // 4, sampler, GRID),
        latent_shape=shape,
        save_lora=partial(lora.save_lora, FluxPipeline, "transformer"),
    )


def predict(guidance: float, network: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Return the velocity, (B, *latent)."""
    scale = torch.full((len(x),), guidance, device=x.device) if network.config.guidance_embeds else None
    output = network(
        hidden_states=packed(x.to(pipeline.dtype(network))),
        encoder_hidden_states=cond.embeds,
        pooled_projections=cond.pooled,
        timestep=t.to(x.device, non_blocking=True).expand(len(x)),
        guidance=scale,
        img_ids=patch_ids(x),
        txt_ids=torch.zeros(cond.embeds.shape[1], 3, device=x.device),
        return_dict=False,
    )[0]
    return unpacked(output, x.shape)


def encode(pipe: Pipeline, tokens: int, prompts: list[str]) -> Cond:
    """Return T5's tokens and CLIP's pooled output."""
    embeds, pooled, _ = pipe.encode_prompt(
        prompts, prompts, device=pipe.text_encoder.device, max_sequence_length=tokens
    )
    return Cond(embeds, pooled)


def packed(x: Tensor) -> Tensor:
    """Return latents (B, C, H, W) as patches of 2 x 2, (B, H W / 4, 4 C)."""
    rows = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))  # (B, C, H / 2, 2, W / 2, 2)
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(patches: Tensor, shape: Sequence[int]) -> Tensor:
    """Return patches as latents of shape (B, C, H, W), the inverse of `packed`."""
    _, channels, height, width = shape
    rows = patches.unflatten(1, (height // 2, width // 2)).unflatten(3, (channels, 2, 2))
    return rows.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), channels, height, width)


def patch_ids(x: Tensor) -> Tensor:
    """Return the position of each patch, (0, row, column), for latents (B, C, H, W): shape (H W / 4, 3)."""
    rows, columns = (torch.arange(side // 2, device=x.device, dtype=torch.float) for side in x.shape[2:])
    return torch.cartesian_prod(rows.new_zeros(1), rows, columns)
