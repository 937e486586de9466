"""Guidance at inference: what a run's policy becomes, made of views of it; conf/guidance names the functions here."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rdt.cond import Cond
from rdt.guidance.condition import Annealing, noised
from rdt.guidance.denoisers import Pair, anneal, cfg, cfg_detached, remembered
from rdt.guidance.schedules import Schedule, constant, linear, power, step
from rdt.policy import Denoiser, Policy

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
