"""Distributions over the world's 2,916 modes: what they are worth, how diverse they are, and samples of them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt.randomness import generator
from rdt.shapes.grammar import stated
from rdt.shapes.world import CARDINALITIES, FREE, utility


def indicators(modes: Tensor) -> Tensor:
    """One-hot attributes side by side, (..., 6) -> (..., 24) float64."""
    return torch.cat([F.one_hot(modes[..., k], n) for k, n in enumerate(CARDINALITIES)], dim=-1).double()


MODES = torch.cartesian_prod(*map(torch.arange, CARDINALITIES))  # (2916, 6)
INDICATORS = indicators(MODES)  # (2916, 24)
OWNER = torch.arange(len(CARDINALITIES)).repeat_interleave(torch.tensor(CARDINALITIES))  # (24,) whose value a column is
VALUE = torch.cat([torch.arange(n) for n in CARDINALITIES])  # (24,) which value it is
LOG_CARDINALITIES = torch.tensor(CARDINALITIES).double().log()
_COLUMNS = INDICATORS.nonzero()[:, 1].reshape(len(MODES), -1)  # (2916, 6)


@dataclass(frozen=True)
class Front:
    """K distributions over modes for each of P prompts; every number is a mean over the prompts."""

    prompts: list[str]
    q: Tensor  # (K, P, 2916), float64

    @property
    def gold(self) -> Tensor:
        """Expected utility, (K,)."""
        return self.expected(gold_table(stated(self.prompts)))

    @property
    def entropy(self) -> Tensor:
        """Mean normalised marginal entropy of the free attributes, (K,) in [0, 1]."""
        return diversity(self.q @ INDICATORS, stated(self.prompts)).mean(1)

    @property
    def kl_nats(self) -> Tensor:
        """KL to the ideal base model: what is stated holds, what is free is uniform. (K,), infinite off its support."""
        base = base_distribution(stated(self.prompts))
        return (torch.xlogy(self.q, self.q) - torch.xlogy(self.q, base)).sum(2).mean(1)

    def expected(self, score: Tensor) -> Tensor:
        """Expectation of a score table (P, 2916), (K,)."""
        return torch.einsum("kpm,pm->k", self.q, score) / len(self.prompts)

    def entropy_sampled(self, count: int, seed: int) -> Tensor:
        """What a run's estimator gives on `count` samples per prompt, (K,); the same uniforms at every point."""
        streams = [generator("limit", seed, prompt) for prompt in self.prompts]
        uniform = torch.stack([torch.rand(count, generator=stream, dtype=torch.float64) for stream in streams])
        return torch.stack([sample_diversity(draw(q, uniform), stated(self.prompts)).mean() for q in self.q])


def weights(stated: Tensor) -> Tensor:
    """What a nat of each attribute's entropy adds to the diversity, (P, 6) -> (P, 6); 0 where it is stated."""
    free = (stated == FREE).double()
    return free / free.sum(1, keepdim=True) / LOG_CARDINALITIES


def diversity(marginals: Tensor, stated: Tensor) -> Tensor:
    """Mean normalised entropy of the free attributes, (..., P, 24) -> (..., P)."""
    entropies = -torch.xlogy(marginals, marginals) @ F.one_hot(OWNER).double()
    return (entropies * weights(stated)).sum(-1)


def sample_diversity(modes: Tensor, stated: Tensor) -> Tensor:
    """The plug-in estimate of the diversity from n observed modes per prompt, (P, n, 6) -> (P,)."""
    return diversity(indicators(modes).mean(1), stated)


def draw(q: Tensor, uniform: Tensor) -> Tensor:
    """Modes (P, n, 6) of q (P, 2916), by inverting its distribution function at uniforms (P, n)."""
    cumulative = q.cumsum(1)
    rows = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return MODES[rows.clamp(max=len(MODES) - 1)]


def product(marginals: Tensor) -> Tensor:
    """The distribution with these marginals and independent attributes, (..., 24) -> (..., 2916)."""
    return marginals[..., _COLUMNS].prod(-1)


def gold_table(stated: Tensor) -> Tensor:
    """The annotator's utility of every mode for every prompt, (P, 2916)."""
    return torch.stack([utility(MODES, row.expand_as(MODES)) for row in stated]).double()


def base_distribution(stated: Tensor) -> Tensor:
    """Uniform over the modes in which all that is stated holds, (P, 2916)."""
    holds = ((stated[:, None] == MODES) | (stated[:, None] == FREE)).all(2).double()
    return holds / holds.sum(1, keepdim=True)
