"""Guidance at inference: what a run's policy becomes, made of views of it; conf/guidance names the functions here.

Denoisers made of denoisers: classifier-free guidance, and annealed importance guidance (Jena et al. 2409.06493).

A sampler hands its shared time over as a () tensor on the host, so `anneal` reads it without waiting for the device.

CADS: a condition noised while the sample is noisy, clean once it takes shape (Sadat et al. 2310.17347).

    c_t = sqrt(g) c + s sqrt(1 - g) n,   g = 1 for level <= tau1, 0 for level >= tau2, linear between,
then rescaled to c's mean and standard deviation and mixed with what was not rescaled by psi. Departures: n is the
sample's own and held for the rollout (the paper draws it anew at every step), so that a rollout can be replayed; mean
and deviation are those of one sample over its tokens and channels (the official code's are the batch's), so that no
sample depends on its company.

The weight g of the tuned output over the sampler's progress i / T.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rdt.cond import Cond, Denoiser
from rdt.policy import Policy
from rdt.process import Process, column

Schedule = Callable[[float], float]  # progress i / T -> g


def linear() -> Schedule:
    """g = i / T."""
    return power(1)


def power(exponent: float) -> Schedule:
    """g = (i / T)^exponent: the larger, the later the tuned model takes over; 0 is the tuned model."""
    if exponent < 0:
        raise ValueError(f"guidance.power: exponent={exponent} must not be below 0; g would exceed 1")
    return lambda progress: progress**exponent


def step(fraction: float) -> Schedule:
    """g = 1 from `fraction` of the steps on, 0 before: no step costs two passes."""
    return lambda progress: float(progress >= fraction)


def constant(weight: float) -> Schedule:
    """g = weight at every step."""
    return lambda progress: weight


Pair = Callable[[Tensor, Tensor, Cond], tuple[Tensor, Tensor]]  # (x, t, cond) -> outputs of base and tuned


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


def anneal(base: Denoiser, tuned: Denoiser, schedule: Schedule, times: Tensor, *, pair: Pair | None = None) -> Denoiser:
    """(1 - g_i) base + g_i tuned on the grid `times` (T + 1,); where g_i is 0 or 1 the other pass is not run.

    `pair` gives both outputs at one state, where there is a faster way than one after the other.
    """
    grid = times.tolist()
    weights = {t: schedule(i / (len(grid) - 1)) for i, t in enumerate(grid[:-1])}

    def annealed(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        weight = _at(t, weights)
        if weight in (0, 1):
            return (tuned if weight else base)(x, t, cond)
        from_base, from_tuned = pair(x, t, cond) if pair else (base(x, t, cond), tuned(x, t, cond))
        return (1 - weight) * from_base + weight * from_tuned

    return annealed


def remembered(denoiser: Denoiser) -> Denoiser:
    """The denoiser, answering from memory where it is asked for the states it last saw at that time: a shared prefix.

    Only for one that never changes, as the base. Rows are remembered by how many they were, since samples and the few
    of them whose KL is measured take turns; what is recalled is what these very rows gave, bit for bit.
    """
    seen: dict[tuple[float, int], tuple[Tensor, Tensor, Tensor]] = {}  # by time and rows: x, embeds, output

    def recalled(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        if t.ndim:
            return denoiser(x, t, cond)
        place = (t.item(), len(x))
        known = seen.get(place)
        if known is None or not (known[0].equal(x) and known[1].equal(cond.embeds)):
            known = seen[place] = (x, cond.embeds, denoiser(x, t, cond))
        return known[2]

    return recalled


def _at(t: Tensor, weights: dict[float, float]) -> float:
    if t.ndim:
        raise ValueError(f"t has shape {tuple(t.shape)}; annealing goes by the shared time of a rollout, shape ()")
    if t.item() not in weights:
        raise ValueError(f"t={t.item()} is none of the {len(weights)} times that anneal was built for")
    return weights[t.item()]


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


__all__ = [
    "Views", "aig", "anneal", "cads", "cfg", "cfg_detached", "constant", "linear", "lora_scale", "power", "remembered",
    "step", "tuned",
]  # fmt: skip


@dataclass(frozen=True)
class Views:
    """What a guidance is made of."""

    policy: Policy
    base: Denoiser  # of the policy; points of one sweep share its memory
    guided: Callable[..., Denoiser]  # (view, scale=None): puts classifier-free guidance around a view
    num_steps: int  # of the sampler


def tuned(views: Views, *, scale: float | None = None) -> Denoiser:
    """guidance=cfg: the tuned policy itself, under the run's classifier-free guidance or another scale of it."""
    return views.guided(views.policy.tuned, scale)


def aig(views: Views, *, schedule: Schedule) -> Denoiser:
    """guidance=aig: annealed from base to tuned over the sampler's steps."""
    times = views.policy.process.times(views.num_steps)
    return views.guided(anneal(views.base, views.policy.tuned, schedule, times, pair=both(views)))


def lora_scale(views: Views, *, scale: float) -> Denoiser:
    """guidance=lora_scale: the tuned adapter scaled; 0 is the base, 1 the tuned policy."""
    return views.guided(views.policy.scaled(scale) if scale else views.base)


def cads(views: Views, *, tau1: float, tau2: float, scale: float, psi: float) -> Denoiser:
    """guidance=cads: the tuned policy under prompts that are noised while the sample is."""
    annealing = Annealing(tau1=tau1, tau2=tau2, scale=scale, psi=psi)
    return noised(tuned(views), views.policy.process, annealing)


def both(views: Views) -> Pair:
    """Base and tuned in one call where that is faster, in two, of which the base's may be remembered, where not."""

    def pair(x: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        if views.policy.pairs(x):
            return views.policy.pair(x, t, cond)
        return views.base(x, t, cond), views.policy.tuned(x, t, cond)

    return pair
