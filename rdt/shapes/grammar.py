"""The prompts of the embedded world: "a small blue ring on white", any subset of four attributes stated."""

import itertools
import random

import torch
from torch import Tensor

from rdt.shapes.world import ATTRIBUTES, FREE, NAMES, STATEABLE

HELD_OUT_SHARE = 0.25
SPLIT_SEED = 0


def sentence(stated: dict[str, str]) -> str:
    """The prompt that states these attribute values."""
    words = ["a", stated.get("size"), stated.get("colour"), stated.get("shape", "shape")]
    if "background" in stated:
        words += ["on", stated["background"]]
    return " ".join(word for word in words if word)


def all_prompts() -> list[str]:
    """All 784 prompts, in a fixed order."""
    choices = [(None, *ATTRIBUTES[name]) for name in STATEABLE]
    states = ({n: v for n, v in zip(STATEABLE, values, strict=True) if v} for values in itertools.product(*choices))
    return [sentence(stated) for stated in states]


def split(name: str) -> list[str]:
    """Prompts of the "train" or the "held_out" split; together they are all prompts, and disjoint."""
    prompts = all_prompts()
    random.Random(SPLIT_SEED).shuffle(prompts)
    held_out = round(HELD_OUT_SHARE * len(prompts))
    splits = {"held_out": prompts[:held_out], "train": prompts[held_out:]}
    if name not in splits:
        raise ValueError(f"split={name!r} is not one of {sorted(splits)}")
    return splits[name]


def stated(prompts: list[str]) -> Tensor:
    """(N, 6) attribute indices that prompts state, FREE where they do not; ValueError on a word it does not know."""
    return torch.tensor([_stated_row(prompt) for prompt in prompts]).reshape(-1, len(NAMES))


def _stated_row(prompt: str) -> list[int]:
    row = [FREE] * len(NAMES)
    for word in prompt.lower().split():
        if word in ("a", "on", "shape"):
            continue
        if word not in _MEANING:
            raise ValueError(f"prompt {prompt!r}: the shapes world does not know {word!r}; it knows {sorted(_MEANING)}")
        attribute, value = _MEANING[word]
        row[attribute] = value
    return row


_MEANING = {word: (NAMES.index(name), value) for name in STATEABLE for value, word in enumerate(ATTRIBUTES[name])}
