"""The exact limit of the embedded world is the highest utility that any generator can reach at a given diversity.

The utility is u = 0.6 match + 0.4 mean_k w_k and the diversity D = mean_k H_k / log n_k, both over the m free
attributes. E[u] depends on marginals alone, so E[u] + mu D is maximal for a product whose factors maximise
0.4 E[w_k] + mu H_k / log n_k: q_k ~ exp(0.4 log(n_k) w_k / mu). The factor log n_k comes from normalising the
entropies; one rate common to all attributes would be optimal for the plain sum of entropies. m cancels, so one mu
serves all prompts. Likewise E[u] - alpha KL(q | p_base), with p_base uniform over the free attributes, is maximal for
q_k ~ exp(0.4 w_k / (m alpha)).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.rewards.base import Reward
from rdt.shapes.attributes import FREE
from rdt.shapes.distribution import LOG_CARDINALITIES, OWNER, Front, product
from rdt.shapes.gold import GoldReward
from rdt.shapes.grammar import stated
from rdt.shapes.proxy import proxy_frontier, tabulate
from rdt.shapes.tilt import levels, rates, tilted
from rdt.shapes.world import TASTE

_TASTE = torch.tensor([weight for values in TASTE.values() for weight in values], dtype=torch.float64)  # (24,)


def gold_frontier(prompts: list[str], count: int) -> Front:
    """Return the highest utility at each diversity, at `count` entropies from 1 to 0 that `levels` spaces."""
    return _additive(prompts, LOG_CARDINALITIES[OWNER] * _TASTE.expand(len(prompts), -1), count)


def kl_frontier(prompts: list[str], count: int) -> Front:
    """Return the highest utility at each KL to the ideal base model, one alpha for all prompts; same entropies."""
    free = (stated(prompts) == FREE).sum(1, keepdim=True)
    return _additive(prompts, _TASTE / free, count)


def _additive(prompts: list[str], slopes: Tensor, count: int) -> Front:
    rows = stated(prompts)
    rate = rates(slopes, rows, levels(count))
    return Front(prompts, product(tilted(rate[:, None, None] * slopes, rows)))


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Computes the fronts that a run is measured against: `points` points each, with samples keyed by `seed`."""

    points: int
    seed: int

    def __call__(self, prompts: list[str], images_per_prompt: int, reward: Reward | None, reward_name: str) -> dict:
        """Return the `limit` of result.json; the proxy frontier is empty if there is no reward or it is gold itself."""
        gold, kl = gold_frontier(prompts, self.points), kl_frontier(prompts, self.points)
        limit = {"reward": "gold", "diversity": "entropy", "frontier": self._rows(gold, images_per_prompt)}
        limit["kl_frontier"] = self._rows(kl, images_per_prompt, kl_nats=kl.kl_nats)
        limit["proxy_frontier"] = []
        if reward is not None and not isinstance(reward, GoldReward):
            score = tabulate(reward, prompts, seed=self.seed)
            proxy = proxy_frontier(prompts, score, self.points)
            limit["proxy_frontier"] = self._rows(proxy, images_per_prompt, **{reward_name: proxy.expected(score)})
        return limit

    def _rows(self, front: Front, count: int, **extra: Tensor) -> list[dict[str, float]]:
        columns = extra | {"gold": front.gold, "entropy": front.entropy}
        columns["entropy_sampled"] = front.entropy_sampled(count, self.seed)
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in values]
