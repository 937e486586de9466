"""SDXL: two text encoders, a pooled prompt, and a size condition, which is always the size that is sampled."""

from functools import partial
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn

from rdt.checkpoint import INDEX, read_config
from rdt.models import lora, pipeline
from rdt.models.schedules import diffusion
from rdt.models.text import Pipeline, Text, Widths, encoders
from rdt.policy import PLAIN, Adapter, Cond, Parts, Policy, Setup

UNREAD = ("shift_factor",)  # a setting of the autoencoder that the stock pipeline ignores
SIZES = 6  # numbers that state an image's size: original, crop and target, each by height and width


def build(
    *, source: str, consistency: str | None, adapter: Adapter, checkpointing: bool, setup: Setup = PLAIN
) -> Policy:
    """Return the policy over the diffusers folder or hub id `source`, with the LCM LoRA `consistency` unless None."""
    pieces = parts(pipeline.located(source, "unet", "vae", "text_encoder", "text_encoder_2"), setup)
    if consistency is not None:
        lora.load_consistency(StableDiffusionXLPipeline, pieces.network, consistency)
    return pipeline.assembled(pieces, adapter, checkpointing, setup)


def parts(folder: Path, setup: Setup = PLAIN) -> Parts:
    """Return the pieces of a StableDiffusionXLPipeline folder."""
    pipeline.declared(folder, StableDiffusionXLPipeline)
    if read_config(folder / INDEX).get("add_watermarker"):
        raise ValueError(f"checkpoint {folder / INDEX}: add_watermarker=true is not supported; expected false or null")
    process, vae = diffusion(folder, {}), pipeline.autoencoder(folder, setup, UNREAD)
    unet = pipeline.unet(folder, setup, vae, "text_time")
    shape = pipeline.latent_shape(pipeline.latent_side(folder, "unet", unet.config.sample_size, setup), 1, vae, setup)
    widths = Widths(unet.config.cross_attention_dim, pooled_width(unet))
    text = encoders(Text(folder, {StableDiffusionXLPipeline: encode}), unet, widths, setup)
    return text.beside(vae, setup)(
        network=unet,
        predict=partial(predict, float(pipeline.scale(vae) * shape[1])),
        process=process,
        latent_shape=shape,
        save_lora=partial(lora.save_lora, StableDiffusionXLPipeline, "unet"),
    )


def pooled_width(unet: UNet2DConditionModel) -> int:
    """Return the channels of the pooled prompt, which the UNet reads beside the embedded numbers of the size."""
    return unet.config.projection_class_embeddings_input_dim - SIZES * unet.config.addition_time_embed_dim


def predict(side: float, network: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Return the output, (B, *latent), for images `side` pixels high and wide, neither scaled nor cropped."""
    size = torch.tensor([side, side, 0, 0, side, side]).to(x.device, pipeline.dtype(network), non_blocking=True)
    return network(
        x.to(pipeline.dtype(network)),
        t.to(x.device, non_blocking=True),
        cond.embeds,
        added_cond_kwargs={"text_embeds": cond.pooled, "time_ids": size.expand(len(x), -1)},
        return_dict=False,
    )[0]


def encode(pipe: Pipeline, tokens: int, prompts: list[str]) -> Cond:
    """Return both text encoders' embeddings; for the empty prompt of guidance they are zeros if the folder says so."""
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompts, device=pipe.text_encoder.device, do_classifier_free_guidance=False
    )
    zero = torch.tensor([pipe.config.force_zeros_for_empty_prompt and not prompt for prompt in prompts])
    zero = zero.to(embeds.device)
    return Cond(embeds.masked_fill(zero[:, None, None], 0), pooled.masked_fill(zero[:, None], 0))
