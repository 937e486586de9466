"""Stable Diffusion 1.5 and every checkpoint of its classes, the embedded world's base model among them."""

from functools import partial
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from rdt.models import lora, pipeline
from rdt.models.text import Text, common
from rdt.policy import PLAIN, Adapter, Cond, Parts, Policy, Setup

KIND = "StableDiffusionPipeline"


def build(
    *, source: str, consistency: str | None, adapter: Adapter, checkpointing: bool,
    setup: Setup = PLAIN,
) -> Policy:  # fmt: skip
    """The policy over the diffusers folder or hub id `source`, with the LCM LoRA `consistency` where there is one."""
    made = parts(pipeline.located(source, "unet", "vae", "text_encoder"), setup)
    if consistency is not None:
        lora.load_consistency(StableDiffusionPipeline, made.network, consistency)
    return pipeline.assembled(made, adapter, checkpointing, setup)


def parts(folder: Path, setup: Setup = PLAIN) -> Parts:
    """The pieces of a StableDiffusionPipeline folder."""
    pipeline.declared(folder, KIND)
    unet = pipeline.formatted(pipeline.component(UNet2DConditionModel, folder, "unet", setup), setup)
    vae = pipeline.component(AutoencoderKL, folder, "vae", setup)
    if unet.config.sample_size <= 16:
        unet.set_attn_processor(AttnProcessor())  # on so few tokens plain attention is the faster one
    return common(Text(folder, (KIND,)), unet, vae, setup)(
        predict=_predict,
        process=pipeline.diffusion(folder),
        latent_shape=pipeline.latent_shape(unet.config.in_channels, unet.config.sample_size, 1, vae, setup),
        save_lora=partial(lora.save, StableDiffusionPipeline, "unet"),
    )


def _predict(network: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    return network(x.to(pipeline.dtype(network)), t.to(x.device, non_blocking=True), cond.embeds, return_dict=False)[0]
