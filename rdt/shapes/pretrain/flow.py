"""The flow stage distils the base into a small Stable Diffusion 3 transformer, on the same latents and text encoder.

Flow and diffusion see the same noisy sample up to its scale, x_flow = x / (alpha + sigma) at t = sigma / (alpha +
sigma), so the base tells the mean velocity at every state, a target without the noise of single samples.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from rdt.process import SPLITS, Scales
from rdt.shapes.pretrain.base import PROMPT_DROPOUT, SAMPLED, Pool, ddim_scheduler
from rdt.shapes.pretrain.loop import Plan, fit
from rdt.shapes.pretrain.text import WIDTH, PromptTable

PLAN = Plan("flow", steps=5500, lr=1e-3, ema=0.999, warmup=200)
BATCH = 128
HEADS, LAYERS = 4, 5
SHIFT = 3.0  # of Stable Diffusion 3: its times spread the decisions about the layout over several of few steps


@dataclass(frozen=True)
class Teacher:
    """Holds the trained base."""

    encoder: CLIPTextModel
    unet: UNet2DConditionModel


@dataclass(frozen=True)
class Velocities:
    """Computes the error of the network's velocities against those that the teacher tells."""

    network: SD3Transformer2DModel
    unet: UNet2DConditionModel
    embeds: Tensor  # (785, 12, 96), of every prompt
    pooled: Tensor  # (785, 96)
    prompts: PromptTable
    pool: Pool
    alphas: Tensor = field(default_factory=lambda: ddim_scheduler().alphas_cumprod)  # (1000,)

    def __call__(self, generator: torch.Generator) -> Tensor:
        """Return the mean square, a scalar, of a batch that `generator` draws."""
        rows = torch.randint(len(self.pool.latents), (BATCH,), generator=generator)
        step = matched_steps(training_times(BATCH, generator), self.alphas)
        alpha, sigma = (root[:, None, None, None] for root in roots(self.alphas[step]))
        x = alpha * self.pool.latents[rows] + sigma * torch.randn(BATCH, 8, 8, 8, generator=generator)
        prompt = self.prompts.rows(self.pool.modes[rows], generator, PROMPT_DROPOUT)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            output = self.unet(x, step, self.embeds[prompt]).sample.float()
        x0, noise = SPLITS["v_prediction"](output, x, Scales(alpha, sigma))
        t = (sigma / (alpha + sigma)).flatten()
        with torch.autocast("cpu", torch.bfloat16):
            text = (self.embeds[prompt], self.pooled[prompt])
            velocity = self.network(x / (alpha + sigma), *text, 1000 * t, return_dict=False)[0]
        return (velocity - (noise - x0)).square().mean()


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
    loss = Velocities(network, teacher.unet, encoded.last_hidden_state, encoded.pooler_output, prompts, pool)
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
