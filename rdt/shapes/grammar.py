"""The prompts of the embedded world state any subset of four attributes, as in "a small blue ring on white"."""

import itertools
import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rdt.shapes.attributes import ATTRIBUTES, FREE, NAMES, STATEABLE

if TYPE_CHECKING:  # a dry run reads and checks prompts without torch
    from torch import Tensor

HELD_OUT_SHARE = 0.25
SPLIT_SEED = 0


def sentence(stated: dict[str, str]) -> str:
    """Return the prompt that states these attribute values."""
    words = ["a", stated.get("size"), stated.get("colour"), stated.get("shape", "shape")]
    if "background" in stated:
        words += ["on", stated["background"]]
    return " ".join(word for word in words if word)


def all_prompts() -> list[str]:
    """Return all 784 prompts in a fixed order."""
    choices = [(None, *ATTRIBUTES[name]) for name in STATEABLE]
    states = ({n: v for n, v in zip(STATEABLE, values, strict=True) if v} for values in itertools.product(*choices))
    return [sentence(stated) for stated in states]


def split(name: str) -> list[str]:
    """Return the prompts of a split.

    "train" and "held_out" are disjoint and together hold all prompts; so are "fit" and "validation", which divide
    "train" for the choice of settings, as held-out prompts may not be used for it.
    """
    prompts = all_prompts()
    random.Random(SPLIT_SEED).shuffle(prompts)
    held_out, train = _divided(prompts)
    validation, fit = _divided(train)
    splits = {"held_out": held_out, "train": train, "fit": fit, "validation": validation}
    if name not in splits:
        raise ValueError(f"split={name!r} is none of {', '.join(sorted(splits))}")
    return splits[name]


def _divided(prompts: list[str]) -> tuple[list[str], list[str]]:
    """Return the first prompts, a share of HELD_OUT_SHARE, and the rest."""
    count = round(HELD_OUT_SHARE * len(prompts))
    return prompts[:count], prompts[count:]


def check(prompts: Iterable[str]) -> None:
    """Raise ValueError if a prompt has a word that the world does not know."""
    for prompt in prompts:
        _stated_row(prompt)


def stated(prompts: list[str]) -> "Tensor":
    """Return the attribute indices that prompts state, (N, 6), FREE if unstated; ValueError on an unknown word."""
    import torch

    return torch.tensor([_stated_row(prompt) for prompt in prompts]).reshape(-1, len(NAMES))


def _stated_row(prompt: str) -> list[int]:
    row = [FREE] * len(NAMES)
    for word in prompt.lower().split():
        if word in ("a", "on", "shape"):
            continue
        if word not in _MEANING:
            raise ValueError(
                f"prompt {prompt!r}: {word!r} is not a word of the shapes world; it has {', '.join(sorted(_MEANING))}"
            )
        attribute, value = _MEANING[word]
        row[attribute] = value
    return row


_MEANING = {word: (NAMES.index(name), value) for name in STATEABLE for value, word in enumerate(ATTRIBUTES[name])}
