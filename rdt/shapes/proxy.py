"""The limit of a learned reward: the highest score that any distribution over natural images reaches at a diversity.

A learned score does not add up over attributes, so E_q[score] + mu D(q) is maximised over joint distributions of the
2,916 modes. The optimum may violate a stated attribute if the proxy rewards that. The objective is concave and,
relative to the KL divergence, smooth with constant L = mu sum_k 1 / (m log n_k), so exponentiated gradient ascent with
step 1 / L rises monotonically. With g the gradient, max_a g(a) - E_q[g] bounds the distance to the optimum; the ascent
stops once this bound is below GAP.

The finish costs no diversity, so every mode is scored at the finish that scores best on a grid over natural images. A
value beyond the best natural image is hacked by definition.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt.randomness import generator
from rdt.rewards.base import Reward
from rdt.shapes.attributes import FINISH
from rdt.shapes.distribution import INDICATORS, MODES, OWNER, Front, base_distribution, entropy_weights
from rdt.shapes.grammar import stated
from rdt.shapes.render import render
from rdt.shapes.tilt import levels, rates
from rdt.shapes.world import JITTERS, quality, scene

GAP = 2e-3  # bound, as a mean over prompts, on the distance to the maximum of E[score] / mu + D
STEPS = 500  # at most, per point
START, END = 0.99, 0.02  # entropies that the rates span, as an additive fit of the score predicts them
CHUNK = 256
CELLS = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0])] * len(FINISH))  # (27, 3), the grid over the finish
SAMPLE, KEPT = 96, 4  # modes on which every cell is tried, and cells that are then tried on every mode


@dataclass(frozen=True)
class Table:
    """Holds the mean score of each mode at its best natural finish for each prompt, and that finish's quality."""

    score: Tensor  # (P, 2916), float64
    quality: Tensor  # (P, 2916), float64


@runtime_checkable
class Separable(Protocol):
    """A reward that equals the scaled inner product of an image's and a prompt's features."""

    scale: float

    def image_features(self, images: Tensor) -> Tensor: ...

    def text_features(self, prompts: list[str]) -> Tensor: ...


def proxy_frontier(prompts: list[str], table: Table, count: int) -> Front:
    """Return the highest mean score at each diversity, one mu for all prompts.

    The last of the `count` points is the best mode of each prompt.
    """
    score, rows = table.score.double(), stated(prompts)
    log_q, points = torch.zeros_like(score), []
    for rate in _rates(score, rows, count - 1):
        log_q = _ascend(rate * score, entropy_weights(rows), log_q)
        points.append(log_q.softmax(1))
    q = torch.stack([*points, F.one_hot(score.argmax(1), len(MODES)).double()])
    return Front(prompts, q, table.quality)


def optimality_gap(score: Tensor, weight: Tensor, q: Tensor) -> Tensor:
    """Bound how far q (P, 2916) is below the maximum of E_q[score] + sum_k weight_k H_k(q), (P,)."""
    return _gap(_gradient(score, weight, q), q)


def _ascend(score: Tensor, weight: Tensor, log_q: Tensor) -> Tensor:
    for step in range(STEPS):
        q = log_q.softmax(1)
        gradient = _gradient(score, weight, q)
        if step % 10 == 0 and _gap(gradient, q).mean() < GAP:
            break
        log_q = log_q + gradient / weight.sum(1, keepdim=True)
        log_q = log_q - log_q.amax(1, keepdim=True)
    return log_q


def _gradient(score: Tensor, weight: Tensor, q: Tensor) -> Tensor:
    surprise = -(q @ INDICATORS).clamp(min=1e-300).log()
    return score + (weight[:, OWNER] * surprise) @ INDICATORS.T


def _gap(gradient: Tensor, q: Tensor) -> Tensor:
    return gradient.amax(1) - (q * gradient).sum(1)


def _rates(score: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return 1 / mu of each point, (count,), at which the score's main effects alone reach the wanted entropies."""
    base = base_distribution(rows)
    effects = ((base * score) @ INDICATORS) / (base @ INDICATORS).clamp(min=1e-12)
    effects = effects - (base * score).sum(1, keepdim=True)
    slopes = effects * torch.where(entropy_weights(rows) > 0, 1 / entropy_weights(rows), 0.0)[:, OWNER]
    return rates(slopes, rows, levels(count, START, END))


@torch.no_grad()
def tabulate(reward: Reward, prompts: list[str], pairs: int = 1, seed: int = 0) -> Table:
    """Return the table of a reward over all modes, at the KEPT cells of the finish that score best on SAMPLE modes.

    Each mode is rendered in `pairs` of opposite jitter, so that effects linear in the jitter cancel. The maximum of
    2,916 noisy values would be biased upwards.
    """
    stream = generator("tabulate", seed)
    sample = MODES[torch.randperm(len(MODES), generator=stream)[:SAMPLE]]
    tried = torch.stack([_mean_scores(reward, prompts, sample, cell, 1, stream).mean() for cell in CELLS])
    kept = CELLS[tried.topk(KEPT).indices]
    scores = torch.stack([_mean_scores(reward, prompts, MODES, cell, pairs, stream) for cell in kept])
    best = scores.max(0)
    return Table(best.values, quality(kept).double()[best.indices])


def _mean_scores(
    reward: Reward, prompts: list[str], modes: Tensor, cell: Tensor, pairs: int, stream: torch.Generator
) -> Tensor:
    """Return the mean score of renders of each mode with one finish, (P, modes)."""
    jitter = 2 * torch.rand(pairs * len(modes), JITTERS, generator=stream) - 1
    finish = cell.expand(2 * len(jitter), -1)
    images = render(scene(modes.repeat(2 * pairs, 1), torch.cat([jitter, -jitter]), finish))
    return _table(reward, prompts, images).reshape(len(prompts), 2 * pairs, -1).mean(1)


def _table(reward: Reward, prompts: list[str], images: Tensor) -> Tensor:
    """Return the score of each image for every prompt, (P, N), float64 on the CPU."""
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
