"""The base stage trains the text-to-image model, a small Stable Diffusion UNet, on the frozen text encoder.

The noise schedule ends at a signal-to-noise ratio of zero, so that sampling starts where training did (Lin et al.
2305.08891); with the schedule of Stable Diffusion 1.5, whose last step keeps some signal, backgrounds came out grey.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from rdt.files import replacing
from rdt.shapes.pretrain.loop import Plan, fit
from rdt.shapes.pretrain.text import WIDTH, PromptTable
from rdt.shapes.render import render
from rdt.shapes.world import random_modes, random_scene

PLAN = Plan("base", steps=24000, lr=1.5e-3, ema=0.9995, warmup=100)
BATCH = 128
POOL = 98304  # latents that are encoded once and trained on
PROMPT_DROPOUT = 0.1
SAMPLED = 10  # steps of the embedded world's sampler, on whose times half of the training falls


@dataclass(frozen=True)
class Pool:
    """Holds renders that were encoded once."""

    latents: Tensor  # (POOL, 8, 8, 8), unit variance
    modes: Tensor  # (POOL, 6)


def ddim_scheduler() -> DDIMScheduler:
    """Return DDPM's linear noise schedule, rescaled to end in pure noise, where sampling starts."""
    return DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@dataclass(frozen=True)
class Denoising:
    """Computes the loss of predicting v (Salimans and Ho 2202.00512) on a pool of latents."""

    network: UNet2DConditionModel
    embeds: Tensor  # (785, 12, 96), of every prompt
    prompts: PromptTable
    pool: Pool
    alphas: Tensor = field(default_factory=lambda: ddim_scheduler().alphas_cumprod)  # (1000,)

    def __call__(self, generator: torch.Generator) -> Tensor:
        """Return the loss, a scalar, of a batch that `generator` draws."""
        rows = torch.randint(len(self.pool.latents), (BATCH,), generator=generator)
        x0, noise = self.pool.latents[rows], torch.randn(BATCH, 8, 8, 8, generator=generator)
        t = training_steps(BATCH, generator)
        prompt = self.prompts.rows(self.pool.modes[rows], generator, PROMPT_DROPOUT)
        alpha, sigma = (root[:, None, None, None] for root in (self.alphas[t].sqrt(), (1 - self.alphas[t]).sqrt()))
        with torch.autocast("cpu", torch.bfloat16):  # 1.3 times faster where the processor has such instructions
            output = self.network(alpha * x0 + sigma * noise, t, self.embeds[prompt]).sample
        error = (output - (alpha * noise - sigma * x0)).square().mean(dim=(1, 2, 3))
        return (step_weights(self.alphas)[t] * error).mean()


def train(
    start: Path | None, encoder: CLIPTextModel, prompts: PromptTable, pool: Pool, work: Path, seed: int
) -> UNet2DConditionModel:
    """Return the trained network; training starts from the weights in the folder `start`, or from random ones."""
    torch.manual_seed(seed)
    network = untrained_unet()
    if start:
        stored = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
        network.load_state_dict(stored.state_dict())  # the number of heads has no weights
    with torch.no_grad():
        embeds = encoder(prompts.ids).last_hidden_state
    fit(PLAN, network, Denoising(network, embeds, prompts, pool), work, seed)
    return network


def untrained_unet() -> UNet2DConditionModel:
    """Return the untrained network."""
    network = UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=8,
    )
    network.set_attn_processor(AttnProcessor())  # faster than SDPA on a CPU at this size
    return network


def step_weights(alphas_cumprod: Tensor) -> Tensor:
    """Return the weight of the loss at each step, (1000,), of mean 1: about the inverse of the error left there.

    Near pure noise half of the variance of v cannot be predicted, and unweighted it drowns the details of little noise.
    """
    ratio = alphas_cumprod / (1 - alphas_cumprod)
    weight = 1 + 9 * ratio / (ratio + 0.1)
    return weight / weight.mean()


def training_steps(count: int, generator: torch.Generator) -> Tensor:
    """Return steps of the noise schedule (count,), half of them uniform and half on the sampler's own."""
    steps = torch.randint(1000, (count,), generator=generator)
    sampled = 1000 // SAMPLED * torch.randint(1, SAMPLED + 1, (count,), generator=generator) - 1
    return torch.where(torch.arange(count) % 2 == 0, steps, sampled)


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, work: Path, seed: int) -> Pool:
    """Return encoded and scaled renders of uniform modes and finish, which a file in `work` keeps."""
    file = work / "pool.safetensors"
    if file.exists():
        return Pool(**load_file(file))
    generator = torch.Generator().manual_seed(seed)
    modes = random_modes(POOL, generator)
    scenes = (random_scene(chunk, generator) for chunk in modes.split(256))
    latents = torch.cat([vae.encode(2 * render(scene) - 1).latent_dist.mean for scene in scenes])
    with replacing(file) as unfinished:
        save_file({"latents": latents * vae.config.scaling_factor, "modes": modes}, unfinished)
    return Pool(**load_file(file))
