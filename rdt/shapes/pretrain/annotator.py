"""The simulated annotator compares images for a prompt and chooses between them with Bradley-Terry noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.shapes import grammar, tokenizer
from rdt.shapes.attributes import CARDINALITIES, FREE
from rdt.shapes.pretrain.oracle import degrade
from rdt.shapes.render import render
from rdt.shapes.world import random_finish, random_modes, random_scene, utility

HOLDS = 0.8  # probability that a stated attribute holds in a compared image
PROMPTS = 24  # prompts of one training step that have two images each


class TokenisedPrompts:
    """Holds every prompt of the grammar as the attributes it states and as token ids."""

    def __init__(self) -> None:
        prompts = grammar.all_prompts()
        self.stated = grammar.stated(prompts)  # (784, 6)
        self.ids = tokenizer.build()(prompts, padding="max_length", return_tensors="pt").input_ids  # (784, 12)


@dataclass(frozen=True)
class Comparisons:
    """Holds P prompts and N = 2 PROMPTS images, of which p and PROMPTS + p were drawn for prompt p."""

    ids: Tensor  # (P, 12)
    images: Tensor  # (N, 3, 32, 32)
    utilities: Tensor  # (P, N), for every pair of prompt and image


def comparisons(prompts: TokenisedPrompts, others: int, generator: torch.Generator) -> Comparisons:
    """Return PROMPTS random prompts with images that have the flaws of generated ones, and `others` more prompts."""
    rows = torch.randint(len(prompts.stated), (PROMPTS + others,), generator=generator)
    stated = prompts.stated[rows]
    modes = _modes(stated[:PROMPTS].repeat(2, 1), generator)
    finish = random_finish(len(modes), generator)
    images = degrade(render(random_scene(modes, generator, finish)), generator)
    utilities = utility(
        modes.repeat(len(rows), 1), finish.repeat(len(rows), 1), stated.repeat_interleave(len(modes), 0)
    )
    return Comparisons(prompts.ids[rows], images, utilities.view(len(rows), -1))


def _modes(stated: Tensor, generator: torch.Generator) -> Tensor:
    """Return modes (N, 6) in which a stated attribute holds with probability HOLDS and free ones are uniform."""
    modes = random_modes(len(stated), generator)
    shift = torch.stack([torch.randint(1, k, (len(stated),), generator=generator) for k in CARDINALITIES], dim=1)
    wrong = (stated + shift) % torch.tensor(CARDINALITIES)
    holds = torch.rand(stated.shape, generator=generator) < HOLDS
    return torch.where(stated == FREE, modes, torch.where(holds, stated, wrong))


def differences(values: Tensor) -> Tensor:
    """Return the value of the first minus that of the second of every pair, (P, N) -> (P, N, N)."""
    return values[:, :, None] - values[:, None, :]


def own_pairs(pairs: Tensor) -> Tensor:
    """Select the pair of the two images that were drawn for a prompt, (P, N, N) -> (PROMPTS,)."""
    index = torch.arange(PROMPTS)
    return pairs[index, index, PROMPTS + index]


def choice_probability(difference: Tensor, temperature: float) -> Tensor:
    """Return the Bradley-Terry probability that the annotator prefers the first, given the difference in utility."""
    return torch.sigmoid(difference / temperature)
