"""Makes real classes at tiny size: policies over a small UNet or transformer, and a trainer to fit methods with."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

from rdt.methods.base import Method
from rdt.models import sd3
from rdt.policy import CONSISTENCY, Adapter, Cond, Parts, Policy
from rdt.process import Diffusion, Flow
from rdt.rewards.base import Reward
from rdt.rollout import Sampling, sampled
from rdt.stream import Batch, PromptData, PromptStream

LATENT, TOKENS, WIDTH, WORDS = (4, 4, 4), 5, 16, 64
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
PROMPTS = ["a circle", "a small blue ring", "a shape on white"]
Graph = Callable[[Policy], Tensor]  # -> loss ()
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.double) ** 2  # Stable Diffusion's


def diffusion(*, set_alpha_to_one: bool = False) -> Diffusion:
    """Return Stable Diffusion's process."""
    alphas = (1 - BETAS).cumprod(0).float()
    return Diffusion(alphas_cumprod=alphas, prediction="epsilon", set_alpha_to_one=set_alpha_to_one)


def unet() -> UNet2DConditionModel:
    """Return Stable Diffusion's network with two levels of 8 and 16 channels."""
    return UNet2DConditionModel(
        sample_size=LATENT[1], in_channels=LATENT[0], out_channels=LATENT[0], block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1, norm_num_groups=4, attention_head_dim=4, cross_attention_dim=WIDTH,
    )  # fmt: skip


def parts(*, consistency_rank: int = 2) -> Parts:
    """Return pieces with random weights; consistency_rank 0 leaves the consistency adapter out."""
    torch.manual_seed(0)
    network, words, colours = unet(), nn.Embedding(WORDS, WIDTH), nn.Conv2d(LATENT[0], 3, 1)
    if consistency_rank:  # init_lora_weights=False makes both factors random, as after distillation
        lora = LoraConfig(r=consistency_rank, target_modules=list(TARGETS), init_lora_weights=False)
        network.add_adapter(lora, adapter_name=CONSISTENCY)
    return Parts(
        network=network,
        predict=lambda network, x, t, cond: network(x, t, cond.embeds, return_dict=False)[0],
        process=diffusion(),
        encode=lambda prompts: Cond(words(torch.tensor([_ids(prompt) for prompt in prompts]))),
        decode=lambda x0: colours(x0).sigmoid(),
        frozen=nn.ModuleList([words, colours]),
        latent_shape=LATENT,
        save_lora=lambda weights, metadata, folder: None,
    )


def _ids(prompt: str) -> list[int]:
    ids = [1 + sum(word.encode()) % (WORDS - 1) for word in prompt.split()]
    return (ids + [0] * TOKENS)[:TOKENS]


def policy(*, rank: int = 2, consistency_rank: int = 2, trained: bool = True) -> Policy:
    """Return a policy; `trained` gives its adapter random weights, since a fresh adapter has no effect."""
    policy = Policy(parts(consistency_rank=consistency_rank), Adapter(rank, rank, TARGETS))
    if trained:
        disturb(policy)
    return policy


def transformer() -> SD3Transformer2DModel:
    """Return Stable Diffusion 3's network with two joint layers of width 16."""
    return SD3Transformer2DModel(
        sample_size=LATENT[1], patch_size=2, in_channels=LATENT[0], out_channels=LATENT[0], num_layers=2,
        num_attention_heads=2, attention_head_dim=8, joint_attention_dim=WIDTH, caption_projection_dim=16,
        pooled_projection_dim=WIDTH, pos_embed_max_size=2, qk_norm="rms_norm",
    )  # fmt: skip


def flow_parts(*, sampler: str = "sde", shift: float = 1.0) -> Parts:
    """Return the pieces with a rectified flow in place of the diffusion, and no consistency adapter."""
    torch.manual_seed(0)
    others, network = parts(consistency_rank=0), transformer()

    def encode(prompts: list[str]) -> Cond:
        embeds = others.encode(prompts).embeds
        return Cond(embeds, embeds.mean(1))

    return dataclasses.replace(
        others,
        network=network,
        predict=sd3.predict,
        process=Flow(shift=shift, sampler=sampler),
        encode=encode,
        save_lora=sd3.save_lora,
    )


def flow_policy(*, rank: int = 2, sampler: str = "sde", shift: float = 1.0, trained: bool = True) -> Policy:
    """Return `policy` on a rectified flow."""
    policy = Policy(flow_parts(sampler=sampler, shift=shift), Adapter(rank, rank, TARGETS))
    if trained:
        disturb(policy)
    return policy


@torch.no_grad()
def disturb(policy: nn.Module, seed: int = 1) -> None:
    """Give the trained weights random values."""
    for weight in (p for p in policy.parameters() if p.requires_grad):
        weight.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))


def gradients(policy: Policy, graph: Graph) -> dict[str, Tensor]:
    """Return the gradient of a loss for every trained tensor, by name."""
    policy.zero_grad()
    graph(policy).backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.requires_grad}


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal values, the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Brightness(Reward):
    """Score an image by the mean of its pixels."""

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        return images.mean((1, 2, 3))


@torch.no_grad()
def brightness(policy: Policy) -> float:
    """Return the mean reward of eight images of the tuned policy, from the same noise at every call."""
    noise = policy.noise(0, "look", range(8))
    rollout = sampled(policy, policy.tuned, ["a circle"] * 8, noise, Sampling(3, 1.0, 1.0))
    return policy.decode(rollout.clean).mean().item()


class Probe(L.Callback):
    """Call a function with the method after each of its steps, inside the running trainer."""

    def __init__(self, look: Callable[[Method, Batch], None]) -> None:
        self.look = look

    def on_train_batch_end(
        self, trainer: L.Trainer, method: Method, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.look(method, batch)


def fit(method: Method, iterations: int, *callbacks: L.Callback, prompts: Sequence[str] = PROMPTS) -> L.Trainer:
    """Train a method with Lightning's trainer, as a run does, and return the trainer."""
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=list(callbacks), enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(method, PromptData(PromptStream(prompts, method.prompts_per_iteration, iterations, seed=0)))
    return trainer
