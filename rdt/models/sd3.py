"""Stable Diffusion 3 and 3.5, rectified flows: the published folders, and the embedded world's twin of its base."""

from functools import partial
from pathlib import Path

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn

from rdt.models import lora, pipeline
from rdt.models.text import Text, common
from rdt.policy import PLAIN, Adapter, Cond, Parts, Policy, Setup
from rdt.process import Flow

KINDS = ("StableDiffusion3Pipeline", "StableDiffusionPipeline")
T5 = ("text_encoder_3", "tokenizer_3")


def build(
    *, source: str, sampler: str, adapter: Adapter, checkpointing: bool,
    companion: str | None = None, grid: str = "even", tokens: int = 77, t5: bool = True, setup: Setup = PLAIN,
) -> Policy:  # fmt: skip
    """The policy over the transformer and scheduler in `source`, with text encoders and autoencoder of `companion`, or
    its own; without T5 its tokens are zeros, as in training where it was dropped."""
    texts = ("text_encoder", "text_encoder_2", "text_encoder_3")[: None if t5 else 2]
    folder = pipeline.located(source, "transformer", "vae", *texts)
    other = folder if companion is None else pipeline.located(companion, "vae", *texts)
    made = parts(folder, Text(other, KINDS, tokens, () if t5 else T5), sampler, grid, setup)
    return pipeline.assembled(made, adapter, checkpointing, setup)


def parts(folder: Path, text: Text, sampler: str, grid: str = "even", setup: Setup = PLAIN) -> Parts:
    """The pieces of a transformer's folder and of the pipeline folder that reads prompts and has its latents."""
    network = pipeline.component(SD3Transformer2DModel, folder, "transformer", setup)
    vae = pipeline.component(AutoencoderKL, text.folder, "vae", setup)
    config = network.config
    return common(text, network, vae, setup)(
        predict=predict,
        process=_process(folder, sampler, grid),
        latent_shape=pipeline.latent_shape(config.in_channels, config.sample_size, config.patch_size, vae, setup),
        save_lora=save_lora,
    )


def predict(network: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The velocity (B, *latent); the network counts time to 1000."""
    timestep = (1000 * t).to(x.device, non_blocking=True).expand(len(x))
    return network(x.to(pipeline.dtype(network)), cond.embeds, cond.pooled, timestep, return_dict=False)[0]


def _process(folder: Path, sampler: str, grid: str) -> Flow:
    """The scheduler's shift, on its published grid or on an even one."""
    kind = FlowMatchEulerDiscreteScheduler
    scheduler = pipeline.read(folder, "scheduler", lambda: kind.from_pretrained(folder, subfolder="scheduler"))
    ends = {"even": None, "published": scheduler.sigma_min}
    if grid not in ends:
        raise ValueError(f"grid={grid} is not one of {', '.join(ends)}")
    return Flow(shift=scheduler.config.shift, sampler=sampler, last=ends[grid])


save_lora = partial(lora.save, StableDiffusion3Pipeline, "transformer")
