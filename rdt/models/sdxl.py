"""SDXL: two text encoders, a pooled prompt, and the image's size as a condition, which is always the one sampled."""

from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn

from rdt.models import lora, pipeline
from rdt.models.text import Text, common
from rdt.policy import PLAIN, Adapter, Cond, Parts, Policy, Setup

KIND = "StableDiffusionXLPipeline"


def build(
    *, source: str, consistency: str | None, adapter: Adapter, checkpointing: bool,
    setup: Setup = PLAIN,
) -> Policy:  # fmt: skip
    """The policy over the diffusers folder or hub id `source`, with the LCM LoRA `consistency` where there is one."""
    made = parts(pipeline.located(source, "unet", "vae", "text_encoder", "text_encoder_2"), setup)
    if consistency is not None:
        lora.load_consistency(StableDiffusionXLPipeline, made.network, consistency)
    return pipeline.assembled(made, adapter, checkpointing, setup)


def parts(folder: Path, setup: Setup = PLAIN) -> Parts:
    """The pieces of a StableDiffusionXLPipeline folder."""
    pipeline.declared(folder, KIND)
    unet = pipeline.formatted(pipeline.component(UNet2DConditionModel, folder, "unet", setup), setup)
    vae = pipeline.component(AutoencoderKL, folder, "vae", setup)
    shape = pipeline.latent_shape(unet.config.in_channels, unet.config.sample_size, 1, vae, setup)
    side = float(pipeline.scale(vae) * shape[1])
    return common(Text(folder, (KIND,)), unet, vae, setup)(
        predict=partial(predict, side),
        process=pipeline.diffusion(folder),
        latent_shape=shape,
        save_lora=partial(lora.save, StableDiffusionXLPipeline, "unet"),
    )


def predict(side: float, network: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The output for images `side` pixels high and wide, neither scaled nor cropped from others."""
    size = torch.tensor([side, side, 0, 0, side, side]).to(x.device, pipeline.dtype(network), non_blocking=True)
    return network(
        x.to(pipeline.dtype(network)), t.to(x.device, non_blocking=True), cond.embeds,
        added_cond_kwargs={"text_embeds": cond.pooled, "time_ids": size.expand(len(x), -1)}, return_dict=False,
    )[0]  # fmt: skip
