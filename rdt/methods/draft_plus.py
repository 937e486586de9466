"""DRaFT+: DRaFT-K held to the base by a KL (NeMo-Aligner; the tuning of AIG, Jena et al., WACV 2025, arXiv 2409.06493).

Maximises, over the last K sampling steps,
    r(decode(x_T)) - kl_coef sum_i KL(tuned || base at x_i) / dims,    i = T - K .. T - 1,
so that with K = T its optimum is the base tilted by exp(r / alpha), alpha = kl_coef / dims, as SQDF's. Departures: the
KL is that of the transitions, 1/2 included, where NeMo takes the epsilons' mean square (twice ours at Stable
Diffusion's last step), so eta must be above 0; `kl_min_std` clamps its weight 1 / std^2; and past the first of the K
states the base's pass carries gradient, to x_i and not to a weight: taken as constant, it would pull x_i to where the
base's output lies, and the optimum would be another.
"""

from typing import Any

from torch import Tensor

from rdt.methods.base import Loss
from rdt.methods.direct import Tail
from rdt.methods.draft import Draft


class DraftPlus(Draft):
    """DRaFT-K with a KL to the base."""

    def __init__(self, *, kl_coef: float, kl_min_std: float, **shared: Any) -> None:
        super().__init__(**shared)
        if kl_coef and not self.sampling.eta:
            raise ValueError(
                f"method.kl_coef={kl_coef} has no KL to weigh at model.sampling.eta=0: its steps draw nothing;"
                " take eta > 0, or method=draft"
            )
        self.kl_coef, self.kl_min_std = kl_coef, kl_min_std

    def judged(self, tail: Tail, rewards: Tensor) -> Loss:
        kl = self.kl(tail)
        return Loss(self.kl_coef * kl / tail.clean[0].numel() - rewards, {"reward": rewards, "kl_nats": kl})

    def kl(self, tail: Tail) -> Tensor:
        """Nats (B,) over the K steps."""
        base, process, times = self.guided(self.policy.base), self.policy.process, self.times[-1 - self.K :]
        total = tail.clean.new_zeros(len(tail.prompts))
        for x, ours, t, t_next in zip(tail.states, tail.transitions, times, times[1:], strict=False):
            theirs = process.transition(base(x, t, tail.cond), x, t, t_next, self.sampling.eta)
            total = total + ours.kl(theirs, self.kl_min_std)
        return total
