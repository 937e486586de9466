"""The flow stage distils the base into a small Stable Diffusion 3 transformer, on the same latents and text encoder.

Flow and diffusion see the same noisy sample up to its scale, x_flow = x / (alpha + sigma) at t = sigma / (alpha +
sigma), so the base tells the mean velocity at every state, a target without the noise of single samples.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from rdt.process import SPLITS, Scales
from rdt.shapes.pretrain.base import PROMPT_DROPOUT, SAMPLED, Pool, ddim_scheduler
from rdt.shapes.pretrain.loop import Plan, fit
from rdt.shapes.pretrain.text import WIDTH, PromptTable

PLAN = Plan("flow", steps=9000, lr=1.5e-3, ema=0.9995, warmup=300)
BATCH = 256
HEADS, LAYERS = 4, 5
SHIFT = 3.0  # of Stable Diffusion 3: its times spread the decisions about the layout over several of few steps


@dataclass(frozen=True)
class Teacher:
    """Holds the trained base."""

    encoder: CLIPTextModel
    unet: UNet2DConditionModel


def train(
    start: Path | None, teacher: Teacher, prompts: PromptTable, pool: Pool, work: Path, seed: int
) -> SD3Transformer2DModel:
    """Return the trained velocity network; training starts from the weights in the folder `start`, or from random ones.

    The text encoder is not trained further.
    """
    torch.manual_seed(seed)
    network = transformer()
    if start:
        stored = SD3Transformer2DModel.from_pretrained(start / "transformer", torch_dtype=torch.float32)
        network.load_state_dict(stored.state_dict())
    with torch.no_grad():
        encoded = teacher.encoder(prompts.ids)
    embeds, pooled = encoded.last_hidden_state, encoded.pooler_output
    noise_levels = ddim_scheduler().alphas_cumprod

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pool.latents), (BATCH,), generator=generator)
        step = matched_steps(training_times(BATCH, generator), noise_levels)
        alpha, sigma = (root[:, None, None, None] for root in roots(noise_levels[step]))
        x = alpha * pool.latents[rows] + sigma * torch.randn(BATCH, 8, 8, 8, generator=generator)
        prompt = prompts.rows(pool.modes[rows], generator, PROMPT_DROPOUT)
        with torch.no_grad():
            output = teacher.unet(x, step, embeds[prompt]).sample
        x0, noise = SPLITS["v_prediction"](output, x, Scales(alpha, sigma))
        t = (sigma / (alpha + sigma)).flatten()
        velocity = network(x / (alpha + sigma), embeds[prompt], pooled[prompt], 1000 * t, return_dict=False)[0]
        return (velocity - (noise - x0)).square().mean()

    fit(PLAN, network, loss, work, seed)
    return network


def roots(alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients of the clean sample and of the noise."""
    return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()


def matched_steps(times: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return the diffusion's steps whose noise levels are nearest above times (N,) of the flow."""
    alpha, sigma = roots(alphas_cumprod)
    return torch.searchsorted(sigma / (alpha + sigma), times).clamp(max=len(alphas_cumprod) - 1)


def transformer() -> SD3Transformer2DModel:
    """Return the untrained network: 1.6 M parameters, 16 image tokens of 2 x 2 latents and 12 text tokens."""
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=4,
        qk_norm="rms_norm",
    )
    for name, module in network.named_modules():  # blocks start as the identity, the velocity at zero (adaLN-zero)
        if isinstance(module, nn.Linear) and ("norm" in name or name == "proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return network


def training_times(count: int, generator: torch.Generator) -> Tensor:
    """Return times (count,) in (0, 1], shifted as the scheduler shifts them; half of them are the sampler's own."""
    even = torch.rand(count, generator=generator)
    sampled = torch.randint(1, SAMPLED + 1, (count,), generator=generator) / SAMPLED
    even = torch.where(torch.arange(count) % 2 == 0, even, sampled)
    return SHIFT * even / (1 + (SHIFT - 1) * even)


def save_flow(network: SD3Transformer2DModel, folder: Path) -> None:
    """Write transformer/ and scheduler/ of a StableDiffusion3Pipeline in half precision."""
    network.half().save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=SHIFT).save_pretrained(folder / "scheduler")
