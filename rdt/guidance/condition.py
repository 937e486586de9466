"""CADS: a condition noised while the sample is noisy, clean once it takes shape (Sadat et al. 2310.17347).

    c_t = sqrt(g) c + s sqrt(1 - g) n,   g = 1 for level <= tau1, 0 for level >= tau2, linear between,
then rescaled to c's mean and standard deviation and mixed with what was not rescaled by psi. Departures: n is the
sample's own and held for the rollout (the paper draws it anew at every step), so that a rollout can be replayed; mean
and deviation are those of one sample over its tokens and channels (the official code's are the batch's), so that no
sample depends on its company.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rdt.cond import Cond, Denoiser
from rdt.process import Process, column


@dataclass(frozen=True)
class Annealing:
    """How strongly a condition is noised, and until when."""

    tau1: float  # noise level from which on, towards clean, the condition is untouched
    tau2: float  # noise level from which on, towards noise, nothing of it is left but its mean and deviation
    scale: float  # s
    psi: float  # 1: mean and deviation are kept, 0: they drift

    def __post_init__(self) -> None:
        if not 0 <= self.tau1 < self.tau2 <= 1:
            raise ValueError(f"tau1={self.tau1} must be below tau2={self.tau2}, both noise levels from 0 to 1")
        if self.scale < 0 or not 0 <= self.psi <= 1:
            raise ValueError(f"scale={self.scale} must not be below 0, psi={self.psi} must be from 0 to 1")


def noised(denoiser: Denoiser, process: Process, annealing: Annealing) -> Denoiser:
    """The denoiser under annealed conditions; around classifier-free guidance, whose empty prompt stays clean."""

    def annealed_condition(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return denoiser(x, t, annealed(cond, process.level(t), annealing))

    return annealed_condition


def annealed(cond: Cond, level: Tensor, annealing: Annealing) -> Cond:
    """The condition at a noise level, () on the host or (B,), by the noise it carries; what is returned carries none.

    Bit for bit the condition itself at levels up to tau1, and at every level where scale is 0 and psi 1.
    """
    if cond.noise is None:
        raise ValueError("cond carries no noise to be annealed with; attach the samples' own by rdt.rollout.noisy")
    clean = replace(cond, noise=None)
    if (annealing.scale == 0 and annealing.psi == 1) or (level.ndim == 0 and level <= annealing.tau1):
        return clean
    return clean.map(lambda c, n: _annealed(c, n, column(level, c), annealing), cond.noise)


def _annealed(c: Tensor, n: Tensor, level: Tensor, how: Annealing) -> Tensor:
    """c (B, ...) noised by n; level is () or (B, 1, ..., 1)."""
    g = ((how.tau2 - level) / (how.tau2 - how.tau1)).clamp(0, 1)
    mixed = g.sqrt() * c + how.scale * (1 - g).sqrt() * n
    mixed = torch.lerp(mixed, _rescaled(mixed, c), how.psi).to(c.dtype)
    return torch.where(level <= how.tau1, c, mixed) if level.ndim else mixed


def _rescaled(x: Tensor, c: Tensor) -> Tensor:
    """x with each sample's mean and deviation those of c; what has no deviation becomes the mean."""
    (std, mean), (to_std, to_mean) = (
        torch.std_mean(each.to(x.dtype), dim=tuple(range(1, c.ndim)), correction=0, keepdim=True) for each in (x, c)
    )
    return (x - mean) / std.clamp(min=torch.finfo(x.dtype).tiny) * to_std + to_mean
