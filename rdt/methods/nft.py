"""DiffusionNFT: negative-aware fine-tuning on the forward process (Zheng et al. 2509.16117).

The snapshot `old` makes the rollouts. An image of advantage A is good to the degree p. The loss of the errors q of
tuned and q_o of old (`rdt.methods.matching`) fits a step from old towards tuned to the good images, and a step the
other way to the bad ones:
    p = clip(A / (2 c) + 1/2, 0, 1),    c = advantage_max,
    (c / beta) (p |(1 - beta) q_o + beta q|^2 / w+ + (1 - p) |(1 + beta) q_o - beta q|^2 / w-),
in the mean over dimensions, plus kl_coef |tuned - base|^2. weight=adaptive divides by w+-, the mean absolute value of
the error in the square, at least 1e-5 and without gradient; the others have w = 1 and weigh times instead.

Law: with w = 1, one exact minimisation gives v = v_o + Cov_old(A, v* | x_t) / (c beta), v* being the trained target:
old exp(r / (c beta u)) for a linear reward and Gaussian data. Repeated with kl_coef above 0 in kl_space=own it comes to
rest at base exp(r / alpha), alpha = kl_coef u for every nat. weight=adaptive breaks that law. Where old = tuned, the
gradient is that of A |q|^2 for every beta, AWM's. A group of equal rewards has p = 1/2: it pulls tuned to old.

Departures: those of matching. The defaults are the official code's for Stable Diffusion 3.5; it trains all eight
projections of a block, joint ones too, and runs in fp16 with loss scaling.
"""

from typing import Any

import torch
from torch import Tensor

from rdt.methods.forward_process import mean_square
from rdt.methods.matching import Decay, Errors, Matching, time_weights
from rdt.policy import Denoiser

OLD = "old"  # the snapshot that makes the rollouts
LEAST = 1e-5  # of w+ and w-


class NFT(Matching):
    """Train by fitting implicit positive and negative policies to the images of an older policy."""

    SNAPSHOT = OLD

    def __init__(self, *, beta: float, advantage_max: float, weight: str, old: Decay, **shared: Any) -> None:
        super().__init__(decay=old, **shared)
        for key, value in {"beta": beta, "advantage_max": advantage_max}.items():
            if value <= 0:
                raise ValueError(f"method.{key}={value} must be greater than 0")
        self.beta, self.advantage_max, self.adaptive = beta, advantage_max, weight == "adaptive"
        self.weigh = time_weights("method.weight", weight, {"adaptive": "uniform"})

    @property
    def acting_in_rollouts(self) -> Denoiser:
        """Return the snapshot, which makes the images."""
        return self.policy.view(OLD)

    def time_weight(self, sigma: Tensor) -> Tensor:
        return self.weigh(sigma)

    def objective(self, errors: Errors) -> Tensor:
        """Return the losses (B,) of the positive and the negative policy."""
        beta, c, old = self.beta, self.advantage_max, errors.snapshot
        p = (errors.advantages / (2 * c) + 0.5).clamp(0, 1).to(old)
        good, bad = (1 - beta) * old + beta * errors.tuned, (1 + beta) * old - beta * errors.tuned
        both = p * self.square(good) + (1 - p) * self.square(bad)
        return c / beta * self.weigh(errors.sigma) * both

    def square(self, error: Tensor) -> Tensor:
        """Return the mean square of an error, (B,), over its mean absolute value if weight=adaptive."""
        if not self.adaptive:
            return mean_square(error)
        with torch.no_grad():
            size = error.abs().flatten(1).double().mean(1).clamp(min=LEAST).to(error)
        return mean_square(error) / size
