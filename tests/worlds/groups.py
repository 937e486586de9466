"""Compares methods of groups by their weights, and measures a method's gradient on the Gaussian world."""

import torch
from torch import Tensor

from rdt.methods.grpo import GRPO
from worlds import tiny_policy


def pixels(images: Tensor) -> Tensor:
    """Return the pixels as features."""
    return images.flatten(1) - 0.5


def same_weights(a: GRPO, b: GRPO) -> bool:
    """Return whether two methods have trained the same weights, bit for bit."""
    return all(one.equal(other) for one, other in zip(a.trained, b.trained, strict=True))


def z_scores(method: GRPO, iterations: int) -> Tensor:
    """Return the mean gradient over its standard error, for each trained value, where the weights are."""
    found: list[Tensor] = []
    probe = tiny_policy.Probe(lambda method, _: found.append(torch.cat([p.grad.flatten() for p in method.trained])))
    tiny_policy.fit(method, iterations, probe, prompts=["p"])
    estimates = torch.stack(found)
    return estimates.mean(0) / (estimates.std(0) / iterations**0.5)
