"""This module holds distributions over the world's modes and their finish, with utility, diversity and samples."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt.randomness import generator
from rdt.shapes.attributes import CARDINALITIES, FREE
from rdt.shapes.grammar import stated
from rdt.shapes.world import QUALITY, content_utility


def indicators(modes: Tensor) -> Tensor:
    """Return the attributes as one-hot codes side by side, (..., 6) -> (..., 24), float64."""
    return torch.cat([F.one_hot(modes[..., k], n) for k, n in enumerate(CARDINALITIES)], dim=-1).double()


MODES = torch.cartesian_prod(*map(torch.arange, CARDINALITIES))  # (2916, 6)
INDICATORS = indicators(MODES)  # (2916, 24)
OWNER = torch.arange(len(CARDINALITIES)).repeat_interleave(torch.tensor(CARDINALITIES))  # (24,) attribute of a column
VALUE = torch.cat([torch.arange(n) for n in CARDINALITIES])  # (24,) that attribute's value in a column
LOG_CARDINALITIES = torch.tensor(CARDINALITIES).double().log()
_COLUMNS = INDICATORS.nonzero()[:, 1].reshape(len(MODES), -1)  # (2916, 6)


@dataclass(frozen=True)
class Front:
    """Holds K distributions over modes for each of P prompts; every number it returns is a mean over the prompts.

    The finish is independent of the diversity; of its distribution the expected quality and the cost in KL are kept.
    """

    prompts: list[str]
    q: Tensor  # (K, P, 2916), float64
    quality: Tensor  # expected quality of the finish, broadcast to (K, P, 2916)
    finish_nats: Tensor | float = torch.inf  # KL of the finish to the base's, broadcast to (K,)

    @property
    def gold(self) -> Tensor:
        """Return the expected utility, (K,)."""
        return self.expected(content_table(stated(self.prompts)) + QUALITY * self.quality)

    @property
    def entropy(self) -> Tensor:
        """Return the mean normalised marginal entropy of the free attributes, (K,) in [0, 1]."""
        return free_entropy(self.q @ INDICATORS, stated(self.prompts)).mean(1)

    @property
    def kl_nats(self) -> Tensor:
        """Return the KL to the ideal base model in nats, (K,), infinite outside its support.

        The ideal base draws every stated attribute as stated, every free one and the finish uniformly.
        """
        base = base_distribution(stated(self.prompts))
        return (torch.xlogy(self.q, self.q) - torch.xlogy(self.q, base)).sum(2).mean(1) + self.finish_nats

    def expected(self, score: Tensor) -> Tensor:
        """Return the expectation, (K,), of a table of scores, broadcast to (K, P, 2916)."""
        return (self.q * score).sum(2).mean(1)

    def entropy_sampled(self, count: int, seed: int) -> Tensor:
        """Return the entropy, (K,), that a run estimates from `count` samples per prompt.

        All K distributions are sampled with the same uniform numbers.
        """
        streams = [generator("limit", seed, prompt) for prompt in self.prompts]
        uniform = torch.stack([torch.rand(count, generator=stream, dtype=torch.float64) for stream in streams])
        return torch.stack([sampled_entropy(drawn_modes(q, uniform), stated(self.prompts)).mean() for q in self.q])


def entropy_weights(stated: Tensor) -> Tensor:
    """Return the diversity that one nat of each attribute's entropy adds, (P, 6) -> (P, 6); 0 if it is stated."""
    free = (stated == FREE).double()
    return free / free.sum(1, keepdim=True) / LOG_CARDINALITIES


def free_entropy(marginals: Tensor, stated: Tensor) -> Tensor:
    """Return the mean normalised entropy of the free attributes, (..., P, 24) -> (..., P)."""
    entropies = -torch.xlogy(marginals, marginals) @ F.one_hot(OWNER).double()
    return (entropies * entropy_weights(stated)).sum(-1)


def sampled_entropy(modes: Tensor, stated: Tensor) -> Tensor:
    """Return the plug-in estimate of `free_entropy` from n observed modes per prompt, (P, n, 6) -> (P,)."""
    return free_entropy(indicators(modes).mean(1), stated)


def drawn_modes(q: Tensor, uniform: Tensor) -> Tensor:
    """Return samples (P, n, 6) of q (P, 2916), whose distribution function is inverted at uniform numbers (P, n)."""
    cumulative = q.cumsum(1)
    rows = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return MODES[rows.clamp(max=len(MODES) - 1)]


def product(marginals: Tensor) -> Tensor:
    """Return the distribution with these marginals and independent attributes, (..., 24) -> (..., 2916)."""
    return marginals[..., _COLUMNS].prod(-1)


def content_table(stated: Tensor) -> Tensor:
    """Return the content's part of the annotator's utility of every mode for every prompt, (P, 2916)."""
    return torch.stack([content_utility(MODES, row.expand_as(MODES)) for row in stated]).double()


def base_distribution(stated: Tensor) -> Tensor:
    """Return the uniform distribution over the modes that satisfy each prompt, (P, 2916)."""
    holds = ((stated[:, None] == MODES) | (stated[:, None] == FREE)).all(2).double()
    return holds / holds.sum(1, keepdim=True)
