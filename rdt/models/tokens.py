"""Prompts that are longer than a model reads: they are counted, for what is cut off is silently without effect."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, CLIPTokenizer

from rdt.models.pipeline import read


def counter(folder: Path, tokens: int, without: Sequence[str]) -> Callable[[Sequence[str]], int]:
    """How many of some prompts every tokenizer of a pipeline's folder would cut; of T5 `tokens` are read."""

    @cache  # read when it is asked for the first time
    def tokenizers() -> list[tuple[Any, int]]:
        names = sorted(path.name for path in folder.glob("tokenizer*") if path.is_dir() and path.name not in without)
        loaded = [read(folder, name, partial(AutoTokenizer.from_pretrained, folder / name)) for name in names]
        return [(one, _limit(one, tokens)) for one in loaded]

    def overlong(prompts: Sequence[str]) -> int:
        if not prompts:
            return 0
        cut = [
            [len(ids) > limit for ids in one(list(prompts), truncation=False, verbose=False).input_ids]
            for one, limit in tokenizers()
        ]
        return sum(all(prompt) for prompt in zip(*cut, strict=True))

    return overlong


def _limit(tokenizer: Any, tokens: int) -> int:
    whole = tokenizer.model_max_length
    return whole if isinstance(tokenizer, CLIPTokenizer) else min(whole, tokens)
