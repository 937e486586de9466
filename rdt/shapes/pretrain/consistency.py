"""Stage: the consistency adapter, an LCM LoRA of the guided base (Luo et al., arXiv 2310.04378)."""

from pathlib import Path

import torch
from torch import Tensor, nn

from rdt.guidance import cfg
from rdt.models import sd15
from rdt.policy import Adapter, Cond, Policy
from rdt.shapes.pretrain.base import Pool, PromptTable
from rdt.shapes.pretrain.loop import Plan, fit

PLAN = Plan("consistency", steps=800, lr=1e-3, ema=0.995)
ADAPTER = Adapter(rank=16, alpha=16, targets=("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out",
                  "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut", "time_emb_proj"))  # fmt: skip
BATCH = 24
STRIDE = 20  # a teacher step spans a fiftieth of the schedule
GUIDANCE = 3.0
HUBER = 0.001


def train(base_folder: Path, pool: Pool, work: Path, seed: int) -> Policy:
    """A policy whose trained adapter maps any noisy latent to the end of the guided sampling path."""
    torch.manual_seed(seed)
    policy = Policy(sd15.parts(base_folder), ADAPTER)
    prompts = PromptTable(policy_tokenizer(base_folder))
    encoder = policy.frozen[0]
    process = policy.process

    def embed(ids: Tensor) -> Cond:
        return Cond(encoder(ids).last_hidden_state)

    empty = embed(prompts.empty)
    teacher = cfg(policy.base, empty, GUIDANCE)

    def jump(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return process.consistency(policy.tuned(x, t.clamp(min=0), cond), x, t.clamp(min=0))

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pool.latents), (BATCH,), generator=generator)
        t = STRIDE * torch.randint(50, (BATCH,), generator=generator) + STRIDE - 1
        noise = torch.randn(BATCH, *policy.latent_shape, generator=generator)
        x = process.perturb(pool.latents[rows], noise, t)
        with torch.no_grad():
            cond = embed(prompts.draw(pool.modes[rows], generator, 0.0))
            nearer = process.transition(teacher(x, t, cond), x, t, t - STRIDE, 0.0).mean
            reached = (t < STRIDE)[:, None, None, None]
            target = torch.where(reached, nearer, jump(nearer, t - STRIDE, cond))
        error = jump(x, t, cond) - target
        return ((error.square() + HUBER**2).sqrt() - HUBER).mean()

    fit(PLAN, policy, loss, work, seed)
    return policy


def policy_tokenizer(base_folder: Path) -> nn.Module:
    """The tokenizer saved beside the base model."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(base_folder / "tokenizer", local_files_only=True)
