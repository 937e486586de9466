"""Guidance at inference: what a run's policy becomes, as denoisers made of denoisers.

conf/guidance names the classes at the end: a guidance holds its numbers and returns the denoiser of a `Context`.

Annealed importance guidance (AIG, Jena et al., 2409.06493) mixes base and tuned outputs over the sampler's steps,
    out_i = (1 - g_i) base + g_i tuned,   g a schedule of the progress i / T.

CADS noises a condition while the sample is noisy and leaves it clean once it takes shape (Sadat et al., 2310.17347):
    c_t = sqrt(g) c + s sqrt(1 - g) n,   g = 1 for level <= tau1, 0 for level >= tau2, linear between,
then rescaled to c's mean and standard deviation and mixed with its value before rescaling by psi. Departures: each
sample has its own n for the whole rollout (the paper draws it again at every step), so that a rollout can be replayed;
mean and deviation are those of one sample over its tokens and channels (the official code's are the batch's), so that
no sample depends on its batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rdt.cond import Cond, Denoiser
from rdt.policy import Policy
from rdt.process import Process, column
from rdt.rewards.base import Reward
from rdt.selection import SoftBestOf

Schedule = Callable[[float], float]  # progress i / T -> g, the weight of the tuned output


def linear() -> Schedule:
    """Return g = i / T."""
    return power(1)


def power(exponent: float) -> Schedule:
    """Return g = (i / T)^exponent: the larger, the later the tuned model takes over; 0 is the tuned model."""
    if exponent < 0:
        raise ValueError(f"guidance.power: exponent={exponent} must not be below 0; g would exceed 1")
    return lambda progress: progress**exponent


def step(fraction: float) -> Schedule:
    """Return g = 1 from `fraction` of the steps on, 0 before: no step costs two passes."""
    return lambda progress: float(progress >= fraction)


def constant(weight: float) -> Schedule:
    """Return g = weight at every step."""
    return lambda progress: weight


Pair = Callable[[Tensor, Tensor, Cond], tuple[Tensor, Tensor]]  # (x, t, cond) -> outputs of base and tuned


def cfg(denoiser: Denoiser, empty: Cond, scale: float) -> Denoiser:
    """Return u + scale (c - u) in one doubled batch, `empty` (1 row) being u's condition; scale 1 is the denoiser."""

    def guided(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        both = cond.cat(empty.to(x.device)[torch.zeros(len(x), dtype=torch.long, device=x.device)], cond)
        u, c = denoiser(torch.cat([x, x]), torch.cat([t, t]) if t.ndim else t, both).chunk(2)
        return u + scale * (c - u)

    return denoiser if scale == 1 else guided


def cfg_detached(denoiser: Denoiser, empty: Cond, scale: float) -> Denoiser:
    """Return `cfg` without gradient through u: as many passes forward, half as many backward."""

    def guided(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        c = denoiser(x, t, cond)
        with torch.no_grad():
            u = denoiser(x, t, empty.to(x.device)[torch.zeros(len(x), dtype=torch.long, device=x.device)])
        return u + scale * (c - u)

    return denoiser if scale == 1 else guided


def anneal(base: Denoiser, tuned: Denoiser, schedule: Schedule, times: Tensor, *, pair: Pair | None = None) -> Denoiser:
    """Return (1 - g_i) base + g_i tuned on the grid `times` (T + 1,); if g_i is 0 or 1 the other pass is not run.

    `pair` returns both outputs at one state, if that is faster than one after the other. The sampler's shared time is
    a () tensor on the host, so reading it does not wait for the device.
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
    """Return the denoiser with a memory of its last output per time: rollouts share a prefix until they differ.

    For a denoiser that never changes, such as the base. Outputs are also stored per number of rows, since samples and
    the few of them whose KL is measured alternate; a recalled output is that of the same rows, bit for bit.
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
        raise ValueError(f"t has shape {tuple(t.shape)}; annealing needs the shared time of a rollout, shape ()")
    if t.item() not in weights:
        raise ValueError(f"t={t.item()} is none of the {len(weights)} times that anneal was built for")
    return weights[t.item()]


@dataclass(frozen=True)
class Annealing:
    """Says how strongly a condition is noised, and at which noise levels."""

    tau1: float  # at lower noise levels the condition is clean
    tau2: float  # at higher noise levels only its mean and deviation are left
    scale: float  # s
    psi: float  # 1: mean and deviation are kept, 0: they drift

    def __post_init__(self) -> None:
        if not 0 <= self.tau1 < self.tau2 <= 1:
            raise ValueError(f"tau1={self.tau1} must be below tau2={self.tau2}, both noise levels from 0 to 1")
        if self.scale < 0 or not 0 <= self.psi <= 1:
            raise ValueError(f"scale={self.scale} must not be below 0, psi={self.psi} must be from 0 to 1")


def noised(denoiser: Denoiser, process: Process, annealing: Annealing) -> Denoiser:
    """Return the denoiser with annealed conditions; around classifier-free guidance, its empty prompt stays clean."""

    def annealed_condition(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return denoiser(x, t, annealed(cond, process.level(t), annealing))

    return annealed_condition


def annealed(cond: Cond, level: Tensor, annealing: Annealing) -> Cond:
    """Return the condition at a noise level, () on the host or (B,), noised by its samples' own noise.

    The result carries no noise. It is the condition bit for bit at levels up to tau1, and everywhere if scale is 0 and
    psi is 1.
    """
    clean = replace(cond, noise=None)
    if (annealing.scale == 0 and annealing.psi == 1) or (level.ndim == 0 and level <= annealing.tau1):
        return clean
    return clean.map(lambda c, n: _annealed(c, n, column(level, c), annealing), cond.drawn)


def _annealed(c: Tensor, n: Tensor, level: Tensor, how: Annealing) -> Tensor:
    """Return c (B, ...) noised by n; level is () or (B, 1, ..., 1)."""
    g = ((how.tau2 - level) / (how.tau2 - how.tau1)).clamp(0, 1)
    mixed = g.sqrt() * c + how.scale * (1 - g).sqrt() * n
    mixed = torch.lerp(mixed, _rescaled(mixed, c), how.psi).to(c.dtype)
    return torch.where(level <= how.tau1, c, mixed) if level.ndim else mixed


def _rescaled(x: Tensor, c: Tensor) -> Tensor:
    """Return x with the mean and deviation of c, sample by sample; a sample without deviation becomes the mean."""
    (std, mean), (to_std, to_mean) = (
        torch.std_mean(each.to(x.dtype), dim=tuple(range(1, c.ndim)), correction=0, keepdim=True) for each in (x, c)
    )
    return (x - mean) / std.clamp(min=torch.finfo(x.dtype).tiny) * to_std + to_mean


@dataclass(frozen=True)
class Context:
    """Holds what a guidance is made of."""

    policy: Policy
    base: Denoiser  # the policy's; the points of one curve share its memory
    guided: Callable[..., Denoiser]  # (denoiser, scale=None) -> the denoiser under classifier-free guidance
    num_steps: int  # of the sampler
    reward: Reward | None = None  # the run's, for guidance that scores images


class Guidance(ABC):
    """Turns a policy into the denoiser that samples from it; a subclass is a frozen dataclass of its numbers."""

    @abstractmethod
    def __call__(self, context: Context) -> Denoiser:
        """Return the guided denoiser."""

    @property
    def described(self) -> dict[str, Any]:
        """Return the numbers that have an effect, as result.json holds them."""
        return {key: float(v) if type(v) is int else v for key, v in vars(self).items() if v is not None}


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """guidance=cfg: samples the tuned policy under the run's classifier-free guidance, or under another scale."""

    scale: float | None = None

    def __call__(self, context: Context) -> Denoiser:
        return context.guided(context.policy.tuned, self.scale)


@dataclass(frozen=True)
class AnnealedImportance(Guidance):
    """guidance=aig: mixes base and tuned policy over the sampler's steps, by one of four schedules."""

    schedule: str
    power: float = 2.0
    fraction: float = 0.5
    constant: float = 0.5

    def __call__(self, context: Context) -> Denoiser:
        make, numbers = self._choice
        times = context.policy.process.times(context.num_steps)
        mixed = anneal(context.base, context.policy.tuned, make(**numbers), times, pair=_pair(context))
        return context.guided(mixed)

    @property
    def described(self) -> dict[str, Any]:
        return {"schedule": self.schedule} | {name: float(number) for name, number in self._choice[1].items()}

    @property
    def _choice(self) -> tuple[Callable[..., Schedule], dict[str, float]]:
        """Return the function of the schedule and its argument."""
        choices: dict[str, tuple[Callable[..., Schedule], dict[str, float]]] = {
            "linear": (linear, {}),
            "power": (power, {"exponent": self.power}),
            "step": (step, {"fraction": self.fraction}),
            "constant": (constant, {"weight": self.constant}),
        }
        if self.schedule not in choices:
            raise ValueError(f"guidance.schedule={self.schedule} is not one of {', '.join(choices)}")
        return choices[self.schedule]


@dataclass(frozen=True)
class AdapterScale(Guidance):
    """guidance=lora_scale: scales the tuned adapter; 0 is the base, 1 the tuned policy."""

    scale: float

    def __call__(self, context: Context) -> Denoiser:
        return context.guided(context.policy.scaled(self.scale) if self.scale else context.base)


@dataclass(frozen=True)
class ConditionAnnealing(Guidance):
    """guidance=cads: samples the tuned policy under prompts that are noised while the sample is noisy."""

    tau1: float
    tau2: float
    scale: float
    psi: float

    def __call__(self, context: Context) -> Denoiser:
        tuned = context.guided(context.policy.tuned, None)
        return noised(tuned, context.policy.process, Annealing(self.tau1, self.tau2, self.scale, self.psi))


@dataclass(frozen=True)
class BestOf(Guidance):
    """guidance=best_of: keeps one of several images of the base, by the run's reward; `rdt.selection` states how."""

    candidates: int
    alpha: float | None

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.candidates != int(self.candidates):
            raise ValueError(f"guidance.candidates={self.candidates} must be an integer of at least 1")
        if self.alpha is not None and self.alpha < 0:
            raise ValueError(f"guidance.alpha={self.alpha} must be at least 0; reward.scale=-1 minimises a reward")

    def __call__(self, context: Context) -> Denoiser:
        if context.reward is None:
            raise ValueError("guidance=best_of needs a reward to choose by")
        return SoftBestOf(context.guided(context.base), context.reward, int(self.candidates), self.alpha)


def _pair(context: Context) -> Pair:
    """Return base and tuned outputs from one call if that is faster, else from two, the base's possibly remembered."""

    def pair(x: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        if context.policy.pairs(x):
            return context.policy.pair(x, t, cond)
        return context.base(x, t, cond), context.policy.tuned(x, t, cond)

    return pair
