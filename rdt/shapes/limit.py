"""The exact limit of the embedded world is the highest utility that any generator can reach at a given diversity.

The utility is u = 0.5 match + 0.25 mean_k w_k + 0.25 quality and the diversity D = mean_k H_k / log n_k, both means
over the m free attributes. The finish at its best costs no diversity, so quality is 1 all along the front. E[u] depends
on marginals alone, so E[u] + mu D is maximal for a product whose factors maximise 0.25 E[w_k] + mu H_k / log n_k:
q_k ~ exp(0.25 log(n_k) w_k / mu). The factor log n_k comes from normalising the entropies; one rate common to all
attributes would be optimal for the plain sum of entropies. m cancels, so one mu serves all prompts.

Likewise E[u] - alpha KL(q | p_base), with p_base uniform over the free attributes and the finish, is maximal for
q_k ~ exp(0.25 w_k / (m alpha)), and each factor f of the finish has the density ~ exp(0.25 quality(f) / (3 alpha)).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.rewards.base import Reward
from rdt.shapes.attributes import FINISH, FREE
from rdt.shapes.distribution import LOG_CARDINALITIES, OWNER, Front, product
from rdt.shapes.gold import GoldReward
from rdt.shapes.grammar import stated
from rdt.shapes.proxy import proxy_frontier, tabulate
from rdt.shapes.tilt import levels, rates, tilted
from rdt.shapes.world import TASTE, quality

_TASTE = torch.tensor([weight for values in TASTE.values() for weight in values], dtype=torch.float64)  # (24,)
_GRID = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000  # of a factor of the finish, for integrals over [0, 1]


def gold_frontier(prompts: list[str], count: int) -> Front:
    """Return the highest utility at each diversity, at `count` entropies from 1 to 0 that `levels` spaces."""
    slopes = LOG_CARDINALITIES[OWNER] * _TASTE.expand(len(prompts), -1)
    return Front(prompts, _content(prompts, slopes, _rates(prompts, slopes, count)), torch.tensor(1.0))


def kl_frontier(prompts: list[str], count: int) -> Front:
    """Return the highest utility at each KL to the ideal base model, one alpha for all prompts; same entropies."""
    slopes = _kl_slopes(prompts)
    rate = _rates(prompts, slopes, count)
    return Front(prompts, _content(prompts, slopes, rate), *_finish(rate))


def finish_frontier(prompts: list[str], count: int) -> Front:
    """Return what the finish alone gives at each KL, with the base's content; the rates are those of `kl_frontier`."""
    rate = _rates(prompts, _kl_slopes(prompts), count)
    return Front(prompts, _content(prompts, _kl_slopes(prompts), torch.zeros_like(rate)), *_finish(rate))


def tilted_finish(rate: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean quality and KL in nats to the uniform of one factor whose density is ~ exp(rate quality), (K,)."""
    value = quality(_GRID[:, None])
    weight = (rate[:, None] * value).softmax(1)
    return weight @ value, torch.xlogy(weight, weight * len(_GRID)).sum(1)


def _kl_slopes(prompts: list[str]) -> Tensor:
    return _TASTE / (stated(prompts) == FREE).sum(1, keepdim=True)


def _rates(prompts: list[str], slopes: Tensor, count: int) -> Tensor:
    return rates(slopes, stated(prompts), levels(count))


def _content(prompts: list[str], slopes: Tensor, rate: Tensor) -> Tensor:
    return product(tilted(rate[:, None, None] * slopes, stated(prompts)))


def _finish(rate: Tensor) -> tuple[Tensor, Tensor]:
    """Return quality (K, 1, 1) and KL (K,) of a finish tilted as far as the content is, its three factors alike."""
    value, nats = tilted_finish(rate / len(FINISH))
    return value[:, None, None], len(FINISH) * nats


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Computes the fronts that a run is measured against: `points` points each, with samples keyed by `seed`."""

    points: int
    seed: int

    def __call__(self, prompts: list[str], images_per_prompt: int, reward: Reward | None, reward_name: str) -> dict:
        """Return the `limit` of result.json; the proxy frontier is empty if there is no reward or it is gold itself."""
        limit: dict = {"reward": "gold", "diversity": "entropy"}
        limit["frontier"] = self._rows(gold_frontier(prompts, self.points), images_per_prompt)
        for name, front in (("kl", kl_frontier), ("finish", finish_frontier)):
            found = front(prompts, self.points)
            limit[f"{name}_frontier"] = self._rows(found, images_per_prompt, kl_nats=found.kl_nats)
        limit["proxy_frontier"] = []
        if reward is not None and not isinstance(reward, GoldReward):
            table = tabulate(reward, prompts, seed=self.seed)
            proxy = proxy_frontier(prompts, table, self.points)
            limit["proxy_frontier"] = self._rows(proxy, images_per_prompt, **{reward_name: proxy.expected(table.score)})
        return limit

    def _rows(self, front: Front, count: int, **extra: Tensor) -> list[dict[str, float]]:
        columns = extra | {"gold": front.gold, "entropy": front.entropy}
        columns["entropy_sampled"] = front.entropy_sampled(count, self.seed)
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in values]
