"""The base stage trains the text-to-image model, a small Stable Diffusion UNet, jointly with its text encoder."""

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

PLAN = Plan("base", steps=11000, lr=1.5e-3, ema=0.9995, warmup=300)
BATCH = 32
POOL = 24576  # latents that are encoded once and trained on
PROMPT_DROPOUT = 0.1
WIDTH = 96


class Base(nn.Module):
    """Predicts the noise with the two networks that are trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(_text_config(tokenizer))
        self.unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=16,
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
    """Return the noise schedule of Stable Diffusion 1.5."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
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
    weight = (1 + (1 - alphas) / alphas).clamp(max=25)  # stresses the noisy steps, which decide the layout
    weight = weight / weight.mean()

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(POOL, (BATCH,), generator=generator)
        noise = torch.randn(BATCH, 8, 8, 8, generator=generator)
        t = torch.randint(1000, (BATCH,), generator=generator)
        a = alphas[t][:, None, None, None]
        ids = prompts.draw(pool.modes[rows], generator, PROMPT_DROPOUT)
        output = base(a.sqrt() * pool.latents[rows] + (1 - a).sqrt() * noise, t, ids)
        return (weight[t] * (output - noise).square().mean(dim=(1, 2, 3))).mean()

    return fit(PLAN, base, loss, work, seed)


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
