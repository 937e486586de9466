"""Evaluation with paired noise: what a policy scores, how diverse it is, how far it went from the base."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from rdt.policy import Cond, Denoiser, Policy
from rdt.process import Process
from rdt.rewards.base import Reward
from rdt.rollout import Noise, Sampling, noisy, rollout

Measure = Callable[[Tensor, str], Mapping[str, float]]  # images (n, 3, H, W) of one prompt -> named numbers


@dataclass(frozen=True)
class Protocol:
    """What is sampled: the same for every policy and guidance that is to be compared."""

    prompts: Sequence[str]
    images_per_prompt: int
    kl_images: int  # images per prompt whose KL is measured; 0 for none
    batch_size: int  # images at a time
    seed: int
    grid: tuple[int, int]  # rows (prompts) and columns (seeds) of the sample grid


@dataclass(frozen=True)
class Evaluation:
    """Per-prompt values, in the order of the protocol's prompts, and a few images."""

    scores: dict[str, Tensor]  # "reward/hps", "diversity/vendi", "fidelity/residual", "kl_nats" -> (P,)
    grid: Tensor  # (rows, columns, 3, H, W)

    def summary(self) -> dict[str, float]:
        """Means over prompts."""
        return {name: values.mean().item() for name, values in self.scores.items()}


class PerPrompt(Metric):
    """Named values of single prompts, gathered over ranks; compute() -> {name: (P,)} in prompt order."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, index: int, values: Mapping[str, float]) -> None:
        self.names = self.names or tuple(values)
        self.rows.append(torch.tensor([[index, *(values[name] for name in self.names)]], dtype=torch.float64))

    def compute(self) -> dict[str, Tensor]:
        table = torch.cat(self.rows) if isinstance(self.rows, list) else self.rows
        table = table[table[:, 0].argsort()]
        return {name: table[:, column + 1] for column, name in enumerate(self.names)}


class Evaluator(nn.Module):
    """Runs a protocol; its cost is sharded over ranks by prompt."""

    def __init__(
        self,
        protocol: Protocol,
        rewards: Mapping[str, Reward],
        diversity: Sequence[Measure],
        fidelity: Sequence[Measure],
    ) -> None:
        super().__init__()
        self.protocol = protocol
        self.rewards = nn.ModuleDict(rewards)
        self.diversity, self.fidelity = tuple(diversity), tuple(fidelity)

    @torch.no_grad()
    def run(
        self, policy: Policy, views: Mapping[str, Denoiser], base: Denoiser, sampling: Sampling, rank: int, world: int
    ) -> dict[str, Evaluation]:
        """Evaluate each denoiser on the same noise, KL measured against `base`. Every rank returns all the scores."""
        protocol = self.protocol
        mine = _shard(len(protocol.prompts), rank, world)
        if len(protocol.prompts) < world:
            raise ValueError(f"prompts={len(protocol.prompts)} is fewer than devices={world}; evaluate on more prompts")
        sheets = {name: _Sheet(PerPrompt(), []) for name in views}
        together = max(1, protocol.batch_size // protocol.images_per_prompt)
        for first in range(mine.start, mine.stop, together):
            chunk = range(first, min(first + together, mine.stop))
            for name, view in views.items():  # inside the chunk, so that views which share a prefix find it remembered
                self._fill(sheets[name], chunk, policy, (view, base), sampling)
        return {name: Evaluation(sheet.table.compute(), torch.stack(sheet.grid)) for name, sheet in sheets.items()}

    def _fill(
        self, sheet: "_Sheet", chunk: range, policy: Policy, denoisers: tuple[Denoiser, Denoiser], sampling: Sampling
    ) -> None:
        """Sample and measure one chunk of prompts."""
        latents, times = self._sample(chunk, policy, denoisers[0], sampling)
        kl = self._kl(chunk, latents, times, policy, denoisers, sampling.eta)
        for index, x, nats in zip(chunk, latents, kl, strict=True):
            images = policy.decode(x[:, -1])
            sheet.table.update(index, self._measure(images, self.protocol.prompts[index]) | nats)
            if len(sheet.grid) < self.protocol.grid[0]:
                sheet.grid.append(images[: self.protocol.grid[1]].cpu())

    def _sample(self, chunk: range, policy: Policy, guided: Denoiser, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Latents (p, n, T+1, *latent) of p prompts, and the times; an image's noise does not depend on the chunk."""
        count = self.protocol.images_per_prompt
        rows = range(chunk.start * count, chunk.stop * count)
        parts = []
        for first in range(0, len(rows), self.protocol.batch_size):
            some = rows[first : first + self.protocol.batch_size]
            noise = Noise(
                seed=self.protocol.seed,
                purpose="evaluation",
                indices=some,
                shape=policy.latent_shape,
                device=policy.device,
            )
            cond = noisy(policy.encode([self.protocol.prompts[row // count] for row in some]), noise)
            parts.append(rollout(guided, policy.process, cond, noise, sampling.num_steps, sampling.eta))
        return torch.cat([part.latents for part in parts]).unflatten(0, (len(chunk), count)), parts[0].times

    def _measure(self, images: Tensor, prompt: str) -> dict[str, float]:
        """Rewards, diversity and fidelity of the images of one prompt."""
        values = {
            f"reward/{n}": reward(images, [prompt] * len(images)).mean().item() for n, reward in self.rewards.items()
        }
        for kind, measures in (("diversity", self.diversity), ("fidelity", self.fidelity)):
            values |= {
                f"{kind}/{name}": float(v) for measure in measures for name, v in measure(images, prompt).items()
            }
        return values

    def _kl(
        self,
        chunk: range,
        latents: Tensor,
        times: Tensor,
        policy: Policy,
        denoisers: tuple[Denoiser, Denoiser],
        eta: float,
    ) -> list[dict[str, float]]:
        """Per prompt {"kl_nats": mean over its first kl_images trajectories}; {} where there is no KL to measure."""
        some = self.protocol.kl_images
        if some == 0 or eta == 0:
            return [{} for _ in chunk]
        if denoisers[0] is denoisers[1]:
            return [{"kl_nats": 0.0} for _ in chunk]
        cond = policy.encode([self.protocol.prompts[index] for index in chunk for _ in range(some)])
        nats = trajectory_kl(policy.process, denoisers, cond, latents[:, :some].flatten(0, 1), times, eta)
        return [{"kl_nats": value} for value in nats.unflatten(0, (len(chunk), some)).mean(1).tolist()]


@torch.no_grad()
def trajectory_kl(
    process: Process, denoisers: tuple[Denoiser, Denoiser], cond: Cond, latents: Tensor, times: Tensor, eta: float
) -> Tensor:
    """KL of the first denoiser's trajectories (B, T+1, *latent) to the second's, nats, (B,): the sum over steps."""
    total = torch.zeros(len(latents), device=latents.device)
    for i in range(len(times) - 1):
        x, t, t_next = latents[:, i], times[i], times[i + 1]
        ours, theirs = (process.transition(view(x, t, cond), x, t, t_next, eta) for view in denoisers)
        total += ours.kl(theirs)
    return total


@dataclass(frozen=True)
class _Sheet:
    """What is filled in for one denoiser."""

    table: PerPrompt
    grid: list[Tensor]


def _shard(count: int, rank: int, world: int) -> range:
    """The contiguous rows of `count` that are this rank's."""
    return range(rank * count // world, (rank + 1) * count // world)
