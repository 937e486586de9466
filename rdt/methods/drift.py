"""DRIFT: GRPO whose groups keep their diversity (Liu et al. 2601.12401).

Of N candidates per prompt, the K whose rewards are most concentrated are kept. Each is sampled under its own noised
prompt, as in CADS, the same in rollout and update. The kept rewards are shaped by a potential Phi: how much a
candidate's image differs from the others of its group, stretched to [0, 1] within the group, and 0 at the start:
    r_i = r + weight u sum_{k >= i} gamma^k F_k,   F_i = gamma Phi(x_{i+1}) - Phi(x_i),
where u is what GRPO divides advantages by (method.std). The weight is thus in units of the group's standard deviation
of rewards, or of the reward itself if std=none. `terminal` evaluates Phi at the end alone, so every step gets
gamma^T Phi(x_T). `stepwise` evaluates it also on the clean estimates of a few states, holding each value until the
next one, and step i then subtracts it.

Departures: the paper fixes the ideas, the formulas are ours. Shaping leaves the optimal policy unchanged only if
Phi(x_T) is 0 (Ng, Harada and Russell, ICML 1999; as a baseline: Wiewiora, JAIR 2003), here terminal_potential=zero.
With the default it does not, which is what keeps diversity, while the paper states invariance all the same. `sigma`
keeps |r - mean| <= c std with each group's own c, the smallest that keeps K, so that every group and rank has the same
number of samples.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt.guidance import Annealing, noised
from rdt.methods.base import named
from rdt.methods.grpo import GRPO
from rdt.policy import Denoiser
from rdt.rollout import Rollout, conditioned

Concentration = Callable[[Tensor, int], Tensor]  # rewards (P, N), K -> columns (P, K), ascending
RESOLUTION = 1e-4  # the smallest range of cosine distances that is stretched to [0, 1]; below it is rounding


def everything(rewards: Tensor, keep: int) -> Tensor:
    """Return all N columns and ignore `keep`."""
    return torch.arange(rewards.shape[1], device=rewards.device).expand(rewards.shape)


def window(rewards: Tensor, keep: int) -> Tensor:
    """Return the K of N whose largest and smallest reward are closest; on a tie, those of lowest reward."""
    values, order = rewards.sort(dim=1, stable=True)
    extent = values[:, keep - 1 :] - values[:, : values.shape[1] - keep + 1]
    return _ascending(order.gather(1, extent.argmin(1, keepdim=True) + torch.arange(keep, device=order.device)))


def sigma(rewards: Tensor, keep: int) -> Tensor:
    """Return the K of N with |r - mean| <= c std, where each group has its own c, the smallest that keeps K."""
    return _ascending((rewards - rewards.mean(1, keepdim=True)).abs().argsort(dim=1, stable=True)[:, :keep])


def trim(rewards: Tensor, keep: int) -> Tensor:
    """Return the K of N left after dropping equally many at both ends, and at the top one more if N - K is odd."""
    first = (rewards.shape[1] - keep) // 2
    return _ascending(rewards.argsort(dim=1, stable=True)[:, first : first + keep])


def distinctness(features: Tensor) -> Tensor:
    """Return d_j = 1 - mean_{l != j} cos(f_j, f_l), shape (P, K), of features (P, K, D), by one sum per group."""
    unit = F.normalize(features.double(), dim=-1)
    to_itself = unit.square().sum(-1)
    to_others = (unit @ unit.sum(1).unsqueeze(-1)).squeeze(-1) - to_itself
    return (1 - to_others / (features.shape[1] - 1)).to(features.dtype)


def potential(d: Tensor) -> Tensor:
    """Return d (P, K) stretched to [0, 1] within each group; if a group's values do not differ, all are 0."""
    low, high = d.amin(1, keepdim=True), d.amax(1, keepdim=True)
    return (d - low) / (high - low).clamp(min=RESOLUTION)


def shaping(potentials: Tensor, gamma: float) -> Tensor:
    """Return F_i = gamma Phi(x_{i+1}) - Phi(x_i), shape (..., T), of potentials (..., T + 1)."""
    return gamma * potentials[..., 1:] - potentials[..., :-1]


def to_go(rewards: Tensor, gamma: float) -> Tensor:
    """Return what is still to come at step i, sum_{k >= i} gamma^k F_k, shape (..., T), of rewards F (..., T)."""
    discounts = gamma ** torch.arange(rewards.shape[-1]).to(rewards)
    return (discounts * rewards).flip(-1).cumsum(-1).flip(-1)


def _ascending(columns: Tensor) -> Tensor:
    return columns.sort(dim=1).values


class DRIFT(GRPO):
    """Train by GRPO on groups that keep their diversity; with all three parts off it is GRPO, bit for bit."""

    def __init__(
        self, *, concentrate: str, keep: int, prompt_noise: float, tau1: float, tau2: float, psi: float,
        shaping: str, shaping_weight: float, shaping_gamma: float, terminal_potential: str, looks: int,
        embedder: Callable[[Tensor], Tensor], **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(**shared)
        self.concentrate, self.keep = named("method.concentrate", concentrate, CONCENTRATIONS), keep
        if concentrate != "off" and not 2 <= keep <= self.images_per_prompt:
            raise ValueError(f"method.keep={keep} must be from 2 to method.group={self.images_per_prompt}")
        if prompt_noise < 0:
            raise ValueError(f"method.prompt_noise={prompt_noise} must not be below 0; 0 is off")
        self.annealing = Annealing(tau1=tau1, tau2=tau2, scale=prompt_noise, psi=psi)
        self.weight, self.gamma, self.embedder = shaping_weight, shaping_gamma, embedder
        ends = named("method.terminal_potential", terminal_potential, {"diversity": [self.num_steps], "zero": []})
        between = [self.num_steps * k // (looks + 1) for k in range(1, looks + 1)]
        known = {"off": [], "terminal": ends, "stepwise": sorted({*between} - {0}) + ends}
        self.looks = named("method.shaping", shaping, known)

    def select(self, rewards: Tensor) -> Tensor:
        """Return the candidates whose rewards are concentrated, (P, N) -> (P, K)."""
        return self.concentrate(rewards, self.keep)

    def condition(self, view: Denoiser) -> Denoiser:
        """Return the view under prompts that are noised while the sample is; the noise is each sample's own."""
        return noised(view, self.policy.process, self.annealing) if self.annealing.scale else view

    def returns(self, rewards: Tensor, kept: Tensor, rollouts: list[Rollout], images: list[Tensor]) -> Tensor:
        """Return the rewards (P, K), or (P, K, T) if they are shaped."""
        if not self.looks:
            return rewards
        to_come = to_go(shaping(self.potentials(kept, rollouts, images), self.gamma), self.gamma)
        return rewards[..., None] + self.weight * self.divisor(rewards)[..., None] * to_come

    def potentials(self, kept: Tensor, rollouts: list[Rollout], images: list[Tensor]) -> Tensor:
        """Return Phi at every state of the kept candidates, (P, K, T + 1)."""
        phi = torch.zeros(*kept.shape, self.num_steps + 1)
        for i in self.looks:
            pictures = images if i == self.num_steps else [self.estimates(i, rollout) for rollout in rollouts]
            d = distinctness(self.features(pictures, kept))
            phi[..., i : max(i + 1, self.num_steps)] = potential(d)[..., None]
        self.log_train(distinctness=d.mean())
        return phi

    @torch.no_grad()
    def features(self, images: list[Tensor], kept: Tensor) -> Tensor:
        """Return the features (P, K, D) of the kept (P, K) among the images of all micro-batches and ranks."""
        every = self.all_gather(torch.cat([self.embedder(part) for part in images])).flatten(0, -2).cpu()
        return every.view(len(kept), -1, every.shape[-1])[torch.arange(len(kept))[:, None], kept]

    @torch.no_grad()
    def estimates(self, i: int, rollout: Rollout) -> Tensor:
        """Return the images (B, 3, H, W) of the clean estimates at state i, at the cost of one guided pass."""
        x, t, process = rollout.trajectory.latents[:, i], self.times[i], self.policy.process
        cond = conditioned(self.policy, rollout.prompts, rollout.noise)
        return self.policy.decode(process.clean(self.acting(self.policy.tuned)(x, t, cond), x, t))


CONCENTRATIONS: dict[str, Concentration] = {"off": everything, "window": window, "sigma": sigma, "trim": trim}
