"""DRaFT+: DRaFT-K with a KL to the base (NeMo-Aligner; the tuning of AIG, Jena et al., WACV 2025, arXiv 2409.06493).

It maximises, over the last K sampling steps,
    r(decode(x_T)) - kl_coef sum_i KL(tuned || base at x_i) / dims,    i = T - K .. T - 1.
With K = T its optimum is the base tilted by exp(r / alpha), alpha = kl_coef / dims, the same as SQDF's.

Departures: the KL is that of the transitions, 1/2 included, where NeMo takes the mean square of the epsilons (twice
ours at Stable Diffusion's last step), so eta must be above 0. `kl_min_std` clamps its weight 1 / std^2. The base's pass
at every state but the first of the K carries gradient to x_i, and to no weight: as a constant it would pull x_i towards
the base's output, and the optimum would be another.
"""

from typing import Any

from torch import Tensor

from rdt.methods.base import Loss
from rdt.methods.direct import Tail
from rdt.methods.draft import Draft


class DraftPlus(Draft):
    """Train by DRaFT-K with a KL to the base."""

    def __init__(self, *, kl_coef: float, kl_min_std: float, **shared: Any) -> None:
        super().__init__(**shared)
        if kl_coef and not any(self.sampling.etas):
            raise ValueError(
                f"method.kl_coef={kl_coef} has no KL to weigh at model.sampling.eta=0: its steps draw nothing;"
                " take eta > 0, or method=draft"
            )
        self.kl_coef, self.kl_min_std = kl_coef, kl_min_std

    def tail_loss(self, tail: Tail, rewards: Tensor) -> Loss:
        kl = self.kl(tail)
        return Loss(self.kl_coef * kl / tail.clean[0].numel() - rewards, {"reward": rewards, "kl_nats": kl})

    def kl(self, tail: Tail) -> Tensor:
        """Return the KL in nats, shape (B,), summed over the K steps."""
        base, process = self.guided(self.kl_view), self.policy.process
        times, etas = self.times[-1 - self.K :], self.sampling.etas[-self.K :]
        total = tail.clean.new_zeros(len(tail.prompts))
        for k, (x, ours) in enumerate(zip(tail.states, tail.transitions, strict=False)):
            t, t_next = times[k], times[k + 1]
            total = total + ours.kl(process.transition(base(x, t, tail.cond), x, t, t_next, etas[k]), self.kl_min_std)
        return total
