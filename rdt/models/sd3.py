"""Builds Stable Diffusion 3 and 3.5, which are rectified flows, and the embedded world's flow model."""

from functools import partial
from pathlib import Path
from typing import Any

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline, StableDiffusionPipeline
from torch import Tensor, nn

from rdt.models import lora, pipeline, sd15, settings
from rdt.models.schedules import flow, flow_settings
from rdt.models.text import Pipeline, Text, Widths, encoders
from rdt.policy import PLAIN, Adapter, Cond, Parts, Policy, Setup

T5 = ("text_encoder_3", "tokenizer_3")
UNREAD = ("latents_mean", "latents_std")  # settings of the autoencoder that the stock pipeline ignores


def build(
    *,
    source: str,
    sampler: str,
    adapter: Adapter,
    checkpointing: bool,
    companion: str | None = None,
    grid: str = "even",
    tokens: int = 77,
    t5: bool = True,
    setup: Setup = PLAIN,
) -> Policy:
    """Return the policy over the transformer and scheduler in `source`.

    Text encoders and autoencoder come from the folder `companion`, or from `source` if it is None. Without T5 its
    tokens are zeros, as in training when T5 was dropped.
    """
    texts = ("text_encoder", "text_encoder_2", "text_encoder_3")[: None if t5 else 2]
    folder = pipeline.located(source, "transformer", "vae", *texts)
    other = folder if companion is None else pipeline.located(companion, "vae", *texts)
    pieces = parts(folder, Text(other, KINDS, tokens, () if t5 else T5), sampler, grid, setup)
    return pipeline.assembled(pieces, adapter, checkpointing, setup)


def parts(folder: Path, text: Text, sampler: str, grid: str = "even", setup: Setup = PLAIN) -> Parts:
    """Return the pieces of a transformer's folder and of the pipeline folder with its text encoders and autoencoder."""
    times, vae = flow_settings(folder, grid), pipeline.autoencoder(text.folder, setup, UNREAD)
    channels = dict.fromkeys(("in_channels", "out_channels"), vae.config.latent_channels)
    settings.require(folder, "transformer", SD3Transformer2DModel, channels)
    network = pipeline.component(SD3Transformer2DModel, folder, "transformer", setup)
    config = network.config
    side = pipeline.latent_side(folder, "transformer", config.sample_size, setup)
    shape = pipeline.latent_shape(side, config.patch_size, vae, setup)
    check_positions(folder, config, shape[1])
    prompts = encoders(text, network, Widths(config.joint_attention_dim, config.pooled_projection_dim), setup)
    return prompts.beside(vae, setup)(
        network=network,
        predict=predict,
        process=flow(times, (shape[1] // config.patch_size) ** 2, sampler, grid),
        latent_shape=shape,
        save_lora=save_lora,
    )


def check_positions(folder: Path, config: Any, side: int) -> None:
    """Raise ValueError if an image has more patches along a side than the network has positions."""
    patches, limit = side // config.patch_size, config.pos_embed_max_size
    if patches > limit:
        place = f"checkpoint {folder / 'transformer' / 'config.json'}: pos_embed_max_size={limit}"
        raise ValueError(
            f"{place} is below the {patches} patches of an image's side; lower model.policy.setup.resolution"
        )


def predict(network: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Return the velocity, (B, *latent); the network counts time to 1000."""
    timestep = (1000 * t).to(x.device, non_blocking=True).expand(len(x))
    return network(x.to(pipeline.dtype(network)), cond.embeds, cond.pooled, timestep, return_dict=False)[0]


def encode(pipe: Pipeline, tokens: int, prompts: list[str]) -> Cond:
    """Return the tokens of both CLIPs side by side, followed by T5's tokens, or by zeros if T5 was left out."""
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompts,
        prompts,
        prompts,
        device=pipe.text_encoder.device,
        do_classifier_free_guidance=False,
        max_sequence_length=tokens,
    )
    return Cond(embeds, pooled)


KINDS = {StableDiffusion3Pipeline: encode, StableDiffusionPipeline: sd15.encode}  # that may encode the prompts
save_lora = partial(lora.save_lora, StableDiffusion3Pipeline, "transformer")
