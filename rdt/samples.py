"""Samples, and how far the path of each went from the base while it was sampled."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.cond import Cond, Denoiser
from rdt.process import Process
from rdt.rollout import Noise, Sampling, steps


@dataclass(frozen=True)
class Samples:
    """What is left of rollouts."""

    x0: Tensor  # (B, *latent)
    kl: Tensor  # (K,) nats, of the rows it was measured of

    @staticmethod
    def cat(parts: Sequence["Samples"]) -> "Samples":
        """Rows of all, in order."""
        return Samples(torch.cat([part.x0 for part in parts]), torch.cat([part.kl for part in parts]))


@torch.no_grad()
def sampled(
    denoiser: Denoiser, base: Denoiser, process: Process, cond: Cond, noise: Noise, sampling: Sampling,
    rows: Sequence[int],
) -> Samples:  # fmt: skip
    """Sample; for `rows` sum KL(denoiser || base) over the steps of the path, both run on these rows alone.

    So the KL of what is the base is 0 bit for bit: in other company the last bits of a network's output differ.
    """
    T, x = sampling.num_steps, noise.initial()
    times, chosen = process.times(T), torch.tensor(rows, dtype=torch.long, device=x.device)
    some, kl = cond[chosen], x.new_zeros(len(rows))
    for i, (_, x_next) in enumerate(steps(denoiser, process, cond, x, noise, T, sampling.eta, range(T))):
        if rows:
            at, t, t_next = x[chosen], times[i], times[i + 1]
            theirs, ours = (process.transition(d(at, t, some), at, t, t_next, sampling.eta) for d in (base, denoiser))
            kl += ours.kl(theirs)
        x = x_next
    return Samples(x, kl)
