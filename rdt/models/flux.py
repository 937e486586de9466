"""FLUX.1: a rectified flow whose guidance is distilled into the network; its patches are made and undone in here."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from rdt.models import lora, pipeline
from rdt.models.text import Text, common
from rdt.policy import PLAIN, Adapter, Cond, Parts, Policy, Setup
from rdt.process import Flow

KIND = "FluxPipeline"
SIZE = 128  # latents of an image's side, where the setup does not say; no config does


def build(
    *, source: str, guidance: float, sampler: str, tokens: int, adapter: Adapter,
    checkpointing: bool, setup: Setup = PLAIN,
) -> Policy:  # fmt: skip
    """The policy over the diffusers folder or hub id `source`; guidance is the number the network is told."""
    folder = pipeline.located(source, "transformer", "vae", "text_encoder", "text_encoder_2")
    made = parts(folder, guidance, sampler, tokens, setup)
    return pipeline.assembled(made, adapter, checkpointing, setup)


def parts(folder: Path, guidance: float, sampler: str, tokens: int, setup: Setup = PLAIN) -> Parts:
    """The pieces of a FluxPipeline folder."""
    pipeline.declared(folder, KIND)
    network = pipeline.component(FluxTransformer2DModel, folder, "transformer", setup)
    vae = pipeline.component(AutoencoderKL, folder, "vae", setup)
    shape = pipeline.latent_shape(network.config.in_channels // 4, SIZE, 2, vae, setup)
    return common(Text(folder, (KIND,), tokens), network, vae, setup)(
        predict=partial(predict, guidance),
        process=Flow(shift=_shift(folder, shape[1] * shape[2] // 4), sampler=sampler),
        latent_shape=shape,
        save_lora=partial(lora.save, FluxPipeline, "transformer"),
    )


def predict(guidance: float, network: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The velocity (B, *latent)."""
    told = torch.full((len(x),), guidance, device=x.device) if network.config.guidance_embeds else None
    output = network(
        hidden_states=packed(x.to(pipeline.dtype(network))),
        encoder_hidden_states=cond.embeds,
        pooled_projections=cond.pooled,
        timestep=t.to(x.device, non_blocking=True).expand(len(x)),
        guidance=told,
        img_ids=_places(x),
        txt_ids=torch.zeros(cond.embeds.shape[1], 3, device=x.device),
        return_dict=False,
    )[0]
    return unpacked(output, x.shape)


def packed(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W / 4, 4 C): patches of 2 x 2."""
    rows = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))  # (B, C, H / 2, 2, W / 2, 2)
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(patches: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse, to the shape (B, C, H, W)."""
    _, channels, height, width = shape
    rows = patches.unflatten(1, (height // 2, width // 2)).unflatten(3, (channels, 2, 2))
    return rows.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), channels, height, width)


def _places(x: Tensor) -> Tensor:
    """Of each patch (0, row, column): (H W / 4, 3)."""
    rows, columns = (torch.arange(side // 2, device=x.device, dtype=torch.float) for side in x.shape[2:])
    return torch.cartesian_prod(rows.new_zeros(1), rows, columns)


def _shift(folder: Path, patches: int) -> float:
    """The schedule's shift: of a dynamic one, exp(mu) where mu is linear in the number of patches."""
    kind = FlowMatchEulerDiscreteScheduler
    scheduler = pipeline.read(folder, "scheduler", lambda: kind.from_pretrained(folder, subfolder="scheduler"))
    return math.exp(_mu(scheduler.config, patches)) if scheduler.config.use_dynamic_shifting else scheduler.config.shift


def _mu(config: Any, patches: int) -> float:
    share = (patches - config.base_image_seq_len) / (config.max_image_seq_len - config.base_image_seq_len)
    return config.base_shift + share * (config.max_shift - config.base_shift)
