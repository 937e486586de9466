"""The consistency stage distils the base into an LCM LoRA (Luo et al., arXiv 2310.04378)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from rdt.models import sd15
from rdt.policy import Adapter, Cond, Policy
from rdt.shapes.pretrain.base import Pool
from rdt.shapes.pretrain.loop import Plan, fit
from rdt.shapes.pretrain.text import PromptTable

PLAN = Plan("consistency", steps=1500, lr=1e-3, ema=0.995)
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
CONVOLUTION = ("conv1", "conv2", "conv_shortcut", "time_emb_proj")
ADAPTER = Adapter(rank=16, alpha=16, targets=(*ATTENTION, *CONVOLUTION))
BATCH = 128
STRIDE = 20  # a teacher step spans a fiftieth of the schedule
HUBER = 0.001


def train(base_folder: Path, pool: Pool, work: Path, seed: int) -> Policy:
    """Return a policy whose trained adapter maps any noisy latent to the end of the base's sampling path."""
    torch.manual_seed(seed)
    policy = Policy(sd15.parts(base_folder), ADAPTER)
    tokenizer = CLIPTokenizer.from_pretrained(base_folder / "tokenizer", local_files_only=True)
    fit(PLAN, policy, Distillation(policy, PromptTable(tokenizer), pool), work, seed)
    return policy


@dataclass
class Distillation:
    """Computes the loss between jumps to the clean latent from two neighbouring points of a sampling path."""

    policy: Policy
    prompts: PromptTable
    pool: Pool

    def __call__(self, generator: torch.Generator) -> Tensor:
        """Return the pseudo-Huber loss, a scalar, of a batch that `generator` draws."""
        process = self.policy.process
        rows = torch.randint(len(self.pool.latents), (BATCH,), generator=generator)
        t = STRIDE * torch.randint(50, (BATCH,), generator=generator) + STRIDE - 1
        noise = torch.randn(BATCH, *self.policy.latent_shape, generator=generator)
        x = process.perturb(self.pool.latents[rows], noise, t)
        with torch.no_grad():
            cond = self.embed(self.prompts.ids[self.prompts.rows(self.pool.modes[rows], generator, 0.0)])
            nearer = process.transition(self.policy.base(x, t, cond), x, t, t - STRIDE, 0.0).mean
            reached = (t < STRIDE)[:, None, None, None]
            target = torch.where(reached, nearer, self.jump(nearer, t - STRIDE, cond))
        error = self.jump(x, t, cond) - target
        return ((error.square() + HUBER**2).sqrt() - HUBER).mean()

    def jump(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the clean latents that the adapter reaches from x in one step."""
        output = self.policy.tuned(x, t.clamp(min=0), cond)
        return self.policy.process.consistency(output, x, t.clamp(min=0))

    def embed(self, ids: Tensor) -> Cond:
        """Return the condition of token ids (N, 12)."""
        return Cond(self.policy.frozen[0](ids).last_hidden_state)
