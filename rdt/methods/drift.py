"""DRIFT: GRPO whose groups keep their diversity (Liu et al. 2601.12401).

Of N candidates per prompt the K of most concentrated reward are kept. Each is sampled under its own noised prompt, as
in CADS, the same in rollout and update. Their rewards are shaped by the potential Phi, how much a candidate's image
differs from the group's others, stretched to [0, 1] within the group and 0 at the start:
    r_i = r + weight u sum_{k >= i} gamma^k F_k,   F_i = gamma Phi(x_{i+1}) - Phi(x_i),
where u is what GRPO divides advantages by (method.std): the weight is in units of the group's spread of reward, in
reward itself where std=none. `terminal` knows Phi at the end alone, so every step gets gamma^T Phi(x_T); `stepwise`
also on the clean estimates of a few states (the last one holds between them), which step i then subtracts.

Departures: the paper fixes the ideas, the formulas are ours. Shaping leaves the optimal policy unchanged only where
Phi(x_T) is 0 (Ng et al. 1999), here terminal_potential=zero; with the default it does not, which is what keeps
diversity, while the paper states invariance all the same. `sigma` keeps |r - mean| <= c std with each group's own c,
the least that keeps K, so that every group and device has as many samples.

Groups, the samples of one prompt: which candidates are kept, how each differs from the rest, and shaping by that.

Shaping by potentials: Ng, Harada and Russell, ICML 1999. As a baseline: Wiewiora, JAIR 2003.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt.guidance import Annealing, noised
from rdt.methods.base import named
from rdt.methods.grpo import GRPO
from rdt.methods.policy_gradient import Made
from rdt.policy import Cond, Denoiser
from rdt.rollout import Noise, noisy

Concentration = Callable[[Tensor, int], Tensor]  # rewards (P, N), K -> columns (P, K), ascending
RESOLUTION = 1e-4  # cosine distances nearer than this are alike: rounding is not stretched to [0, 1]


def everything(rewards: Tensor, keep: int) -> Tensor:
    """All N, whatever `keep` says."""
    return torch.arange(rewards.shape[1], device=rewards.device).expand(rewards.shape)


def window(rewards: Tensor, keep: int) -> Tensor:
    """The K of N whose largest and smallest reward lie nearest together; of equally near ones the lowest."""
    values, order = rewards.sort(dim=1, stable=True)
    spread = values[:, keep - 1 :] - values[:, : values.shape[1] - keep + 1]
    return _ascending(order.gather(1, spread.argmin(1, keepdim=True) + torch.arange(keep, device=order.device)))


def sigma(rewards: Tensor, keep: int) -> Tensor:
    """The K of N with |r - mean| <= c std, where c is each group's own: the least that keeps K."""
    return _ascending((rewards - rewards.mean(1, keepdim=True)).abs().argsort(dim=1, stable=True)[:, :keep])


def trim(rewards: Tensor, keep: int) -> Tensor:
    """The K of N left when as many are dropped from either end; of an odd number one more from the top."""
    first = (rewards.shape[1] - keep) // 2
    return _ascending(rewards.argsort(dim=1, stable=True)[:, first : first + keep])


def distinctness(features: Tensor) -> Tensor:
    """d_j = 1 - mean_{l != j} cos(f_j, f_l) of features (P, K, D): (P, K), at the cost of one sum per group."""
    unit = F.normalize(features.double(), dim=-1)
    own = unit.square().sum(-1)
    alike = (unit @ unit.sum(1).unsqueeze(-1)).squeeze(-1) - own
    return (1 - alike / (features.shape[1] - 1)).to(features.dtype)


def potential(d: Tensor) -> Tensor:
    """d (P, K) stretched to [0, 1] within each group; 0 for all where they do not differ."""
    low, high = d.amin(1, keepdim=True), d.amax(1, keepdim=True)
    return (d - low) / (high - low).clamp(min=RESOLUTION)


def shaping(potentials: Tensor, gamma: float) -> Tensor:
    """F_i = gamma Phi(x_{i+1}) - Phi(x_i) of potentials (..., T + 1): (..., T)."""
    return gamma * potentials[..., 1:] - potentials[..., :-1]


def to_go(rewards: Tensor, gamma: float) -> Tensor:
    """What step i still brings, sum_{k >= i} gamma^k F_k, of rewards F (..., T): (..., T)."""
    discounts = gamma ** torch.arange(rewards.shape[-1]).to(rewards)
    return (discounts * rewards).flip(-1).cumsum(-1).flip(-1)


def _ascending(columns: Tensor) -> Tensor:
    return columns.sort(dim=1).values


class DRIFT(GRPO):
    """GRPO, bit for bit, where `concentrate`, `prompt_noise` and `shaping` are off."""

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
        """The candidates whose rewards are concentrated, (P, N) -> (P, K)."""
        return self.concentrate(rewards, self.keep)

    def condition(self, prompts: list[str], noise: Noise) -> Cond:
        """Prompts beside each candidate's own noise on them, which is named by its sample: an update draws it again."""
        cond = super().condition(prompts, noise)
        return noisy(cond, noise) if self.annealing.scale else cond

    def acting(self, view: Denoiser) -> Denoiser:
        """In rollouts and updates, never in evaluation, prompts are noised while the sample is."""
        acting = super().acting(view)
        return noised(acting, self.policy.process, self.annealing) if self.annealing.scale else acting

    def returns(self, rewards: Tensor, kept: Tensor, made: list[Made]) -> Tensor:
        """The rewards (P, K); where they are shaped, (P, K, T)."""
        if not self.looks:
            return rewards
        to_come = to_go(shaping(self.potentials(kept, made), self.gamma), self.gamma)
        return rewards[..., None] + self.weight * self.spread(rewards)[..., None] * to_come

    def potentials(self, kept: Tensor, made: list[Made]) -> Tensor:
        """Phi of every state of the kept candidates, (P, K, T + 1)."""
        phi = torch.zeros(*kept.shape, self.num_steps + 1)
        for i in self.looks:
            d = distinctness(self.features([self.pictures(i, part) for part in made], kept))
            phi[..., i : max(i + 1, self.num_steps)] = potential(d)[..., None]
        self.report(distinctness=d.mean())
        return phi

    @torch.no_grad()
    def features(self, images: list[Tensor], kept: Tensor) -> Tensor:
        """Of the kept (P, K) among the images of all micro-batches and ranks: (P, K, D)."""
        every = self.all_gather(torch.cat([self.embedder(part) for part in images])).flatten(0, -2).cpu()
        return every.view(len(kept), -1, every.shape[-1])[torch.arange(len(kept))[:, None], kept]

    @torch.no_grad()
    def pictures(self, i: int, made: Made) -> Tensor:
        """Samples as of state i: their clean estimates, at one more guided pass; in the end themselves."""
        if i == self.num_steps:
            return made.images
        x, t, process = made.trajectory.latents[:, i], self.times[i], self.policy.process
        return self.policy.decode(process.clean(self.acting(self.policy.tuned)(x, t, made.cond), x, t))


CONCENTRATIONS: dict[str, Concentration] = {"off": everything, "window": window, "sigma": sigma, "trim": trim}
