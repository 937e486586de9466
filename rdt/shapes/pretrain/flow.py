"""The flow stage trains a small Stable Diffusion 3 transformer on the base's latents and frozen text encoder."""

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from rdt.shapes.pretrain.base import PROMPT_DROPOUT, WIDTH, Pool, PromptTable
from rdt.shapes.pretrain.loop import Plan, fit

PLAN = Plan("flow", steps=13000, lr=1.5e-3, ema=0.9995, warmup=300)
BATCH = 64
HEADS, LAYERS = 4, 5


def train(encoder: CLIPTextModel, prompts: PromptTable, pool: Pool, work: Path, seed: int) -> SD3Transformer2DModel:
    """Return the trained velocity network; the text encoder is not trained further."""
    torch.manual_seed(seed)
    network = transformer()
    with torch.no_grad():
        text = encoder(prompts.ids)
    embeds, pooled = text.last_hidden_state, text.pooler_output

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pool.latents), (BATCH,), generator=generator)
        x0, noise = pool.latents[rows], torch.randn(BATCH, 8, 8, 8, generator=generator)
        t = training_times(BATCH, generator)
        at = t[:, None, None, None]
        prompt = prompts.rows(pool.modes[rows], generator, PROMPT_DROPOUT)
        output = network((1 - at) * x0 + at * noise, embeds[prompt], pooled[prompt], 1000 * t, return_dict=False)[0]
        return (output - (noise - x0)).square().mean()

    fit(PLAN, network, loss, work, seed)
    return network


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
    """Return times (count,) in (0, 1), a quarter uniform and the rest logit-normal around 0.6.

    The noisy half, above 0.5, decides the layout.
    """
    normal = (0.4 + torch.randn(count, generator=generator)).sigmoid()
    uniform = torch.rand(count, generator=generator)
    return torch.where(torch.arange(count) % 4 == 0, uniform, normal)


def save_flow(network: SD3Transformer2DModel, folder: Path) -> None:
    """Write transformer/ and scheduler/ of a StableDiffusion3Pipeline in half precision."""
    network.half().save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(folder / "scheduler")
