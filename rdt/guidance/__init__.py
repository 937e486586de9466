"""Denoisers made of denoisers: classifier-free guidance, and annealed importance guidance (Jena et al. 2409.06493).

A sampler hands its shared time over as a () tensor on the host, so `anneal` reads it without waiting for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rdt.guidance.condition import Annealing, noised

if TYPE_CHECKING:
    from rdt.policy import Cond, Denoiser, Policy

Schedule = Callable[[float], float]  # progress i / T -> weight of the tuned output


def cfg(denoiser: Denoiser, empty: Cond, scale: float) -> Denoiser:
    """u + scale (c - u) in one doubled batch, `empty` (1 row) being u's condition; scale 1 is the denoiser itself."""

    def guided(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        both = cond.cat(empty.to(x.device)[torch.zeros(len(x), dtype=torch.long, device=x.device)], cond)
        u, c = denoiser(torch.cat([x, x]), torch.cat([t, t]) if t.ndim else t, both).chunk(2)
        return u + scale * (c - u)

    return denoiser if scale == 1 else guided


def cfg_detached(denoiser: Denoiser, empty: Cond, scale: float) -> Denoiser:
    """`cfg` with no gradient through u: as many passes forward, half as many backward."""

    def guided(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        c = denoiser(x, t, cond)
        with torch.no_grad():
            u = denoiser(x, t, empty.to(x.device)[torch.zeros(len(x), dtype=torch.long, device=x.device)])
        return u + scale * (c - u)

    return denoiser if scale == 1 else guided


def anneal(base: Denoiser, tuned: Denoiser, schedule: Schedule, times: Tensor) -> Denoiser:
    """(1 - g_i) base + g_i tuned on the grid `times` (T + 1,); where g_i is 0 or 1 the other pass is not run."""
    grid = times.tolist()
    weights = {t: schedule(i / (len(grid) - 1)) for i, t in enumerate(grid[:-1])}

    def annealed(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        weight = _at(t, weights)
        if weight in (0, 1):
            return (tuned if weight else base)(x, t, cond)
        return (1 - weight) * base(x, t, cond) + weight * tuned(x, t, cond)

    return annealed


def remembered(denoiser: Denoiser) -> Denoiser:
    """The denoiser, answering from memory where it is asked for the state it last saw at that time: a shared prefix."""
    seen: dict[float, tuple[Tensor, Tensor, Tensor]] = {}  # by time: x, embeds, output

    def recalled(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        known = seen.get(t.item()) if t.ndim == 0 else None
        if known and known[0].shape == x.shape and known[0].equal(x) and known[1].equal(cond.embeds):
            return known[2]
        output = denoiser(x, t, cond)
        if t.ndim == 0:
            seen[t.item()] = (x, cond.embeds, output)
        return output

    return recalled


@dataclass(frozen=True)
class Views:
    """What a guidance is made of."""

    policy: Policy
    base: Denoiser  # of the policy; points of one sweep share its memory
    guided: Callable[[Denoiser], Denoiser]  # puts the run's classifier-free guidance around a view
    num_steps: int  # of the sampler


def tuned(views: Views) -> Denoiser:
    """guidance=cfg: the tuned policy itself."""
    return views.guided(views.policy.tuned)


def aig(views: Views, *, schedule: Schedule) -> Denoiser:
    """guidance=aig: annealed from base to tuned over the sampler's steps."""
    times = views.policy.process.times(views.num_steps)
    return views.guided(anneal(views.base, views.policy.tuned, schedule, times))


def lora_scale(views: Views, *, scale: float) -> Denoiser:
    """guidance=lora_scale: the tuned adapter scaled; 0 is the base, 1 the tuned policy."""
    return views.guided(views.policy.scaled(scale) if scale else views.base)


def cads(views: Views, *, tau1: float, tau2: float, scale: float, psi: float) -> Denoiser:
    """guidance=cads: the tuned policy under prompts that are noised while the sample is."""
    annealing = Annealing(tau1=tau1, tau2=tau2, scale=scale, psi=psi)
    return noised(tuned(views), views.policy.process, annealing)


def linear() -> Schedule:
    """g = i / T."""
    return power(1)


def power(exponent: float) -> Schedule:
    """g = (i / T)^exponent: the larger, the later the tuned model takes over."""
    return lambda progress: progress**exponent


def step(fraction: float) -> Schedule:
    """g = 1 from `fraction` of the steps on, 0 before: no step costs two passes."""
    return lambda progress: float(progress >= fraction)


def constant(weight: float) -> Schedule:
    """g = weight at every step."""
    return lambda progress: weight


def _at(t: Tensor, weights: dict[float, float]) -> float:
    if t.ndim:
        raise ValueError(f"t has shape {tuple(t.shape)}; annealing goes by the shared time of a rollout, shape ()")
    if t.item() not in weights:
        raise ValueError(f"t={t.item()} is none of the {len(weights)} times that anneal was built for")
    return weights[t.item()]
