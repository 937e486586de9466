"""The limit of a learned reward: how much of it any distribution over natural images can have at a given diversity.

A learned score does not add up over attributes, so E_q[score] + mu D(q) is maximised over joint distributions of the
2,916 modes; what is stated may be violated where the proxy pays for it. The objective is concave and, relative to the
KL divergence, smooth with constant L = mu sum_k 1 / (m log n_k): exponentiated gradient ascent with step 1 / L rises
monotonically. max_a g(a) - E_q[g], g the gradient, bounds what is missing to the optimum; it stops the ascent at GAP.
"""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt.randomness import generator
from rdt.rewards.base import Reward
from rdt.shapes.distribution import INDICATORS, MODES, OWNER, Front, base_distribution, weights
from rdt.shapes.grammar import stated
from rdt.shapes.render import render
from rdt.shapes.tilt import levels, rates
from rdt.shapes.world import scene

GAP = 2e-3  # mean over prompts of what may be missing to the maximum of E[score] / mu + D
STEPS = 500  # at most, per point
START, END = 0.99, 0.02  # entropies between which the temperatures are spread, judged by an additive fit of the score
CHUNK = 256


@runtime_checkable
class Separable(Protocol):
    """A reward that is the scaled inner product of an image's and a prompt's features."""

    scale: float

    def image_features(self, images: Tensor) -> Tensor: ...

    def text_features(self, prompts: list[str]) -> Tensor: ...


def proxy_frontier(prompts: list[str], score: Tensor, count: int) -> Front:
    """The most of score (P, 2916) at each diversity, one mu for all prompts; `count` points, the last the best mode."""
    score, rows = score.double(), stated(prompts)
    log_q, points = torch.zeros_like(score), []
    for rate in _rates(score, rows, count - 1):
        log_q = _ascend(rate * score, weights(rows), log_q)
        points.append(log_q.softmax(1))
    return Front(prompts, torch.stack([*points, F.one_hot(score.argmax(1), len(MODES)).double()]))


def missing(score: Tensor, weight: Tensor, q: Tensor) -> Tensor:
    """An upper bound of how far q (P, 2916) is below the maximum of E_q[score] + sum_k weight_k H_k(q), (P,)."""
    return _missing(_gradient(score, weight, q), q)


def _ascend(score: Tensor, weight: Tensor, log_q: Tensor) -> Tensor:
    for step in range(STEPS):
        q = log_q.softmax(1)
        gradient = _gradient(score, weight, q)
        if step % 10 == 0 and _missing(gradient, q).mean() < GAP:
            break
        log_q = log_q + gradient / weight.sum(1, keepdim=True)
        log_q = log_q - log_q.amax(1, keepdim=True)
    return log_q


def _gradient(score: Tensor, weight: Tensor, q: Tensor) -> Tensor:
    surprise = -(q @ INDICATORS).clamp(min=1e-300).log()
    return score + (weight[:, OWNER] * surprise) @ INDICATORS.T


def _missing(gradient: Tensor, q: Tensor) -> Tensor:
    return gradient.amax(1) - (q * gradient).sum(1)


def _rates(score: Tensor, rows: Tensor, count: int) -> Tensor:
    """1 / mu of each point: where the score's main effects alone would reach the wanted entropies, (count,)."""
    base = base_distribution(rows)
    effects = ((base * score) @ INDICATORS) / (base @ INDICATORS).clamp(min=1e-12)
    effects = effects - (base * score).sum(1, keepdim=True)
    slopes = effects * torch.where(weights(rows) > 0, 1 / weights(rows), 0.0)[:, OWNER]
    return rates(slopes, rows, levels(count, START, END))


@torch.no_grad()
def tabulate(reward: Reward, prompts: list[str], pairs: int = 1, seed: int = 0) -> Tensor:
    """Mean score of every mode's renders for every prompt, (P, 2916) float64.

    Renders come in `pairs` of opposite jitter, in which what is linear in the jitter cancels: an optimum over 2,916
    noisy values is too high.
    """
    jitter = 2 * torch.rand(pairs * len(MODES), 5, generator=generator("tabulate", seed)) - 1
    images = render(scene(MODES.repeat(2 * pairs, 1), torch.cat([jitter, -jitter])))
    return _table(reward, prompts, images).reshape(len(prompts), 2 * pairs, -1).mean(1)


def _table(reward: Reward, prompts: list[str], images: Tensor) -> Tensor:
    """The score of each image for every prompt, (P, N) float64 on the host."""
    if reward.components:
        return reward.total(torch.stack([_table(part, prompts, images) for part in reward.components.values()], -1))
    chunks = images.to(next(reward.parameters(), images).device).split(CHUNK)
    if isinstance(reward, Separable):
        features = torch.cat([reward.image_features(chunk) for chunk in chunks])
        table = reward.scale * reward.text_features(prompts) @ features.T
    else:
        read = prompts if reward.reads_prompts else prompts[:1]
        rows = [torch.cat([reward(chunk, [prompt] * len(chunk)) for chunk in chunks]) for prompt in read]
        table = torch.stack(rows).expand(len(prompts), -1)
    return table.double().cpu()
