"""The Gaussian transition that every sampler step is, and the rules for how much of its noise is kept, how much fresh.

DDIM: Song et al. 2010.02502; Flow-SDE: Liu et al. 2505.05470; CPS: Wang and Yu 2509.05952.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transition:
    """p(x_{i+1} | x_i) = N(mean, std^2)."""

    mean: Tensor  # (B, *latent)
    std: Tensor  # (B, 1, ..., 1); 0 for an ODE step
    x0: Tensor  # (B, *latent), the clean estimate the step was built from

    def sample(self, noise: Tensor) -> Tensor:
        """(B, *latent), differentiable in the mean."""
        return self.mean + self.std * noise

    def log_prob(self, x_next: Tensor) -> Tensor:
        """(B,) nats, AVERAGED over latent dimensions (DDPO's convention); 0 where std is 0."""
        std = torch.where(self.std > 0, self.std, 1)  # keeps gradients finite where the density does not exist
        density = -((x_next - self.mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
        return torch.where(self.std > 0, density, 0).flatten(1).mean(1)

    def kl(self, other: "Transition", min_std: float = 0.0) -> Tensor:
        """(B,) nats, SUMMED over latent dimensions, of transitions that share std; 0 where std is 0.

        `min_std` clamps std from below, since 1 / std^2 spans three orders of magnitude over a rollout.
        """
        std = torch.where(self.std > 0, self.std, 1).clamp(min=min_std)
        return torch.where(self.std > 0, (self.mean - other.mean) ** 2 / (2 * std**2), 0).flatten(1).sum(1)


@dataclass(frozen=True)
class Scales:
    """Coefficients at a time: () or (B, 1, ..., 1) each."""

    a: Tensor  # of the clean sample
    s: Tensor  # of the noise


@dataclass(frozen=True)
class Step:
    """x_{i+1} = a_{i+1} x0_hat + keep e_hat + std noise."""

    keep: Tensor
    std: Tensor


def ddim(now: Scales, after: Scales, eta: float) -> Step:
    """DDIM: eta 0 is deterministic, 1 is DDPM."""
    std = eta * after.s / now.s * (1 - now.a**2 / after.a**2).sqrt()
    return Step((after.s**2 - std**2).clamp(min=0).sqrt(), std)  # rounding can pass below 0 where s is tiny


def flow_sde(now: Scales, after: Scales, eta: float) -> Step:
    """Flow-GRPO's drift-corrected SDE: std = eta sqrt(t / (1 - t)) sqrt(dt), for a = 1 - t and s = t.

    Trap: at t = 1 the ratio is infinite; there 1 - t is taken at the next time, as Flow-GRPO does, and t stays 1.
    """
    std = eta * (now.s / torch.where(now.a == 0, after.a, now.a) * (now.s - after.s)).sqrt()
    return Step(after.s - std**2 / (2 * now.s), std)


def cps(now: Scales, after: Scales, eta: float) -> Step:
    """Coefficients-preserving sampling: std = s_{i+1} sin(eta pi / 2), and keep^2 + std^2 = s_{i+1}^2."""
    return Step(after.s * math.cos(eta * math.pi / 2), after.s * math.sin(eta * math.pi / 2))
