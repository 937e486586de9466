"""The base stage trains the text-to-image model, a small Stable Diffusion UNet, jointly with its text encoder.

The noise schedule ends at a signal-to-noise ratio of zero, so that sampling starts where training did (Lin et al.
2305.08891); with the schedule of Stable Diffusion 1.5, whose last step keeps some signal, backgrounds came out grey.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from rdt.files import replacing
from rdt.shapes.attributes import ATTRIBUTES, NAMES, STATEABLE
from rdt.shapes.grammar import sentence
from rdt.shapes.pretrain.loop import Plan, fit
from rdt.shapes.render import render
from rdt.shapes.world import random_modes, random_scene

PLAN = Plan("base", steps=16000, lr=2e-3, ema=0.9995, warmup=500)
BATCH = 256
POOL = 98304  # latents that are encoded once and trained on
SAMPLED = 10  # steps of the embedded world's sampler, on whose times half of the training falls
PROMPT_DROPOUT = 0.1
WIDTH = 96


class Base(nn.Module):
    """Predicts v, the velocity of Salimans and Ho (2202.00512), by the two networks that are trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(_text_config(tokenizer))
        self.unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=8,
            block_out_channels=(16, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,  # diffusers reads this as the number of heads
            norm_num_groups=8,
        )
        self.unet.set_attn_processor(AttnProcessor())  # faster than SDPA on a CPU at this size

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        return self.unet(x, t, self.text_encoder(ids).last_hidden_state).sample


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


def train(vae: AutoencoderKL, tokenizer: CLIPTokenizer, work: Path, seed: int) -> Base:
    """Return the trained base model."""
    torch.manual_seed(seed)
    base = Base(tokenizer)
    pool = encode_pool(vae, work, seed)
    prompts = PromptTable(tokenizer)
    alphas = ddim_scheduler().alphas_cumprod

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(POOL, (BATCH,), generator=generator)
        x0, noise = pool.latents[rows], torch.randn(BATCH, 8, 8, 8, generator=generator)
        t = training_steps(BATCH, generator)
        alpha, sigma = (root[:, None, None, None] for root in (alphas[t].sqrt(), (1 - alphas[t]).sqrt()))
        ids = prompts.draw(pool.modes[rows], generator, PROMPT_DROPOUT)
        output = base(alpha * x0 + sigma * noise, t, ids)
        return (output - (alpha * noise - sigma * x0)).square().mean()

    return fit(PLAN, base, loss, work, seed)


def training_steps(count: int, generator: torch.Generator) -> Tensor:
    """Return steps of the noise schedule (count,), half of them uniform and half on the sampler's own."""
    steps = torch.randint(1000, (count,), generator=generator)
    sampled = 1000 // SAMPLED * torch.randint(1, SAMPLED + 1, (count,), generator=generator) - 1
    return torch.where(torch.arange(count) % 2 == 0, steps, sampled)


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, work: Path, seed: int) -> Pool:
    """Return encoded and scaled renders of uniform modes; a file in `work` keeps them for the next stages."""
    file = work / "pool.safetensors"
    if file.exists():
        return Pool(**load_file(file))
    generator = torch.Generator().manual_seed(seed)
    modes = random_modes(POOL, generator)
    images = (2 * render(random_scene(chunk, generator)) - 1 for chunk in modes.split(256))
    latents = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in images])
    with replacing(file) as unfinished:
        save_file({"latents": latents * vae.config.scaling_factor, "modes": modes}, unfinished)
    return Pool(**load_file(file))


class PromptTable:
    """Looks up the token ids of a random prompt that is true of a mode and states any subset of its attributes."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.columns = torch.tensor([NAMES.index(name) for name in STATEABLE])
        sizes = [len(ATTRIBUTES[name]) + 1 for name in STATEABLE]  # 0 means unstated
        self.strides = torch.tensor([int(torch.tensor(sizes[k + 1 :]).prod()) for k in range(4)])
        values = torch.cartesian_prod(*[torch.arange(size) for size in sizes])
        texts = [_sentence(row) for row in values.tolist()]
        self.ids = _tokenize(tokenizer, [*texts, ""])
        self.empty = self.ids[-1:]

    def rows(self, modes: Tensor, generator: torch.Generator, dropout: float) -> Tensor:
        """Return rows (N,) of `ids`, a random true prompt per mode (N, 6) or, by `dropout`, the empty prompt."""
        states = torch.rand(len(modes), 4, generator=generator) < 0.5
        row = ((modes[:, self.columns] + 1) * states * self.strides).sum(1)
        drop = torch.rand(len(modes), 1, generator=generator) < dropout
        return torch.where(drop[:, 0], len(self.ids) - 1, row)

    def draw(self, modes: Tensor, generator: torch.Generator, dropout: float) -> Tensor:
        """Return the token ids, (N, 12), of prompts drawn by `rows`."""
        return self.ids[self.rows(modes, generator, dropout)]


def _sentence(row: list[int]) -> str:
    stated = {name: ATTRIBUTES[name][value - 1] for name, value in zip(STATEABLE, row, strict=True) if value}
    return sentence(stated)


def _tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    length = tokenizer.model_max_length
    return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def _text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
