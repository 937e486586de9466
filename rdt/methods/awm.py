"""AWM: advantage-weighted matching (Xue et al. 2509.25050).

The negative loss of the model's own training stands in for the log-probability of an image, and is climbed as in a
policy gradient. With the error q of tuned at a noised image of advantage A (`rdt.methods.matching`), the loss is
    - min(A rho, A clip(rho, 1 - clip, 1 + clip)) + kl_coef |tuned - base|^2 + anchor_coef |tuned - anchor|^2,
    rho = exp(l - l_old),    l = - weight(mean |q|^2),
in means over dimensions. l_old is l under the policy that made the images: rho is 1 in the first update after a
rollout. `anchor` is a snapshot that follows tuned. The weights of a mean m at time t, sigma_t, are
    uniform m,  t t m,  t2 t^2 m,  huber t (sqrt(m + 1e-10) - 1e-5),  ghuber t ((m + 1e-10)^p - 1e-10^p) / p,  p = 1/4.
Advantages are clipped to +-advantage_max and then divided by it; null does neither.

Law: with weight=uniform, kl_coef above 0 and kl_space=own it comes to rest at base exp(r / alpha), as DiffusionNFT
does, alpha = advantage_max u kl_coef for every nat, or u kl_coef with advantage_max=null. ghuber weighs each sample by
t m^-3/4, which is no tilt. In space x0, DiffusionNFT with beta 1 and weight=uniform is this loss with anchor_coef 1 and
weight=t2 times advantage_max, up to second order in tuned - anchor.

Departures: those of matching. The official code throws the first two epochs away, whose groups are wrong there, and
cannot run with kl_coef 0 or without the anchor; it draws one set of times per micro-batch.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rdt.methods.forward_process import Noised, mean_square
from rdt.methods.matching import Decay, Errors, Matching, time_weights
from rdt.methods.rollouts import Rollouts
from rdt.policy import Denoiser
from rdt.stream import Batch

ANCHOR = "anchor"  # the snapshot that follows tuned
ROLLOUT = "rollout"  # the snapshot of tuned as it made the images, if more than one update learns from them
TINY, POWER = 1e-10, 0.25

SHAPES: dict[str, Callable[[Tensor], Tensor]] = {  # of a mean square m (B,), where it is not m itself
    "huber": lambda m: (m + TINY).sqrt() - TINY**0.5,
    "ghuber": lambda m: ((m + TINY) ** POWER - TINY**POWER) / POWER,
}


class AWM(Matching):
    """Train by policy gradients whose log-probability is the negative loss of the model's own training."""

    SNAPSHOT = ANCHOR

    def __init__(
        self, *, advantage_max: float | None, weight: str, clip: float, anchor_coef: float, anchor: Decay,
        on_policy: bool, **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(decay=anchor, **shared)
        if advantage_max is not None and advantage_max <= 0:
            raise ValueError(f"method.advantage_max={advantage_max} must be greater than 0 or null")
        if not (on_policy or anchor_coef):
            raise ValueError("method.on_policy=false samples the anchor, and method.anchor_coef=0 turns it off")
        self.advantage_max, self.clip, self.anchor_coef, self.on_policy = advantage_max, clip, anchor_coef, on_policy
        self.weigh = time_weights("method.weight", weight, dict.fromkeys(SHAPES, "t"))
        self.shape = SHAPES.get(weight, lambda m: m)

    @property
    def acting_in_rollouts(self) -> Denoiser:
        """Return the view that makes the images: tuned, or the anchor."""
        return self.policy.tuned if self.on_policy else self.policy.view(ANCHOR)

    def collect(self, batch: Batch) -> Rollouts:
        """Roll out the policy, and keep it if later updates need the likelihood of its images."""
        if self.on_policy and self.updates_per_rollout > 1:
            self.policy.keep(ROLLOUT)
        return super().collect(batch)

    def errors(self, noised: Noised, tuned: Tensor, advantages: Tensor) -> Errors:
        """Return the errors that the objective compares, those of the policy that made the images among them."""
        anchor = self.output_of(ANCHOR, noised) if self.anchor_coef else tuned.detach()
        errors = self.compared(noised, tuned, anchor, advantages)
        if not self.on_policy:
            return replace(errors, acted=errors.snapshot)
        if self.iteration % self.updates_per_rollout:
            return replace(errors, acted=noised.error(self.output_of(ROLLOUT, noised), self.space))
        return errors

    def time_weight(self, sigma: Tensor) -> Tensor:
        return self.weigh(sigma)

    def objective(self, errors: Errors) -> Tensor:
        """Return the losses (B,) of the clipped ratio and of the anchor."""
        likelihood = self.likelihood(errors.tuned, errors.sigma)
        acted = likelihood.detach() if errors.acted is None else self.likelihood(errors.acted, errors.sigma)
        rho, A = (likelihood - acted).exp(), self.bounded(errors.advantages).to(likelihood)
        gain = torch.minimum(A * rho, A * rho.clamp(1 - self.clip, 1 + self.clip))
        return self.anchor_coef * errors.apart - gain

    def likelihood(self, error: Tensor, sigma: Tensor) -> Tensor:
        """Return l, (B,), which stands in for a log-probability."""
        return -self.weigh(sigma) * self.shape(mean_square(error))

    def bounded(self, advantages: Tensor) -> Tensor:
        """Return the advantages, clipped to +-advantage_max and divided by it, unless it is null."""
        if self.advantage_max is None:
            return advantages
        return advantages.clamp(-self.advantage_max, self.advantage_max) / self.advantage_max
