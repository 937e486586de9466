"""The simulated annotator: prompts, images to compare, and choices between them with Bradley-Terry noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.shapes import grammar, tokenizer
from rdt.shapes.pretrain.oracle import degrade
from rdt.shapes.render import render
from rdt.shapes.world import CARDINALITIES, FREE, random_modes, random_scene, utility

HOLDS = 0.8  # probability that a stated attribute holds in a compared image
PROMPTS = 24  # of one step, with two images each


class Words:
    """Every prompt of the grammar: what it states, and its token ids."""

    def __init__(self) -> None:
        prompts = grammar.all_prompts()
        self.stated = grammar.stated(prompts)  # (784, 6)
        self.ids = tokenizer.build()(prompts, padding="max_length", return_tensors="pt").input_ids  # (784, 12)


@dataclass(frozen=True)
class Comparisons:
    """P prompts and N = 2 PROMPTS images, of which p and PROMPTS + p were made for prompt p."""

    ids: Tensor  # (P, 12)
    images: Tensor  # (N, 3, 32, 32)
    utilities: Tensor  # (P, N), of every image under every prompt


def comparisons(words: Words, others: int, generator: torch.Generator) -> Comparisons:
    """PROMPTS random prompts, their images with the flaws of generated ones, and `others` more prompts."""
    rows = torch.randint(len(words.stated), (PROMPTS + others,), generator=generator)
    stated = words.stated[rows]
    modes = _modes(stated[:PROMPTS].repeat(2, 1), generator)
    images = degrade(render(random_scene(modes, generator)), generator)
    utilities = utility(modes.repeat(len(rows), 1), stated.repeat_interleave(len(modes), 0))
    return Comparisons(words.ids[rows], images, utilities.view(len(rows), -1))


def _modes(stated: Tensor, generator: torch.Generator) -> Tensor:
    """Modes (N, 6) in which each stated attribute holds with probability HOLDS and the free ones are uniform."""
    modes = random_modes(len(stated), generator)
    shift = torch.stack([torch.randint(1, k, (len(stated),), generator=generator) for k in CARDINALITIES], dim=1)
    wrong = (stated + shift) % torch.tensor(CARDINALITIES)
    holds = torch.rand(stated.shape, generator=generator) < HOLDS
    return torch.where(stated == FREE, modes, torch.where(holds, stated, wrong))


def differences(values: Tensor) -> Tensor:
    """(P, N) -> (P, N, N), first minus second of every pair."""
    return values[:, :, None] - values[:, None, :]


def own(pairs: Tensor) -> Tensor:
    """(P, N, N) -> (PROMPTS,): of every prompt that has images, the pair of its own two."""
    index = torch.arange(PROMPTS)
    return pairs[index, index, PROMPTS + index]


def choice(difference: Tensor, temperature: float) -> Tensor:
    """Bradley-Terry probability that the annotator prefers the first."""
    return torch.sigmoid(difference / temperature)
