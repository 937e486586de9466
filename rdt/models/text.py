"""The text encoders of a pipeline's folder, and the count of prompts that are longer than they read.

Each family defines how its pipeline classes encode prompts, as the stock diffusers classes do. The encoders stay in
memory, or they write conditions to disk and are freed. What exceeds a tokenizer's limit is cut off and has no effect,
so such prompts are counted.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, CLIPTokenizer

from rdt.cond import Cond, Embeddings, Encode, encoders_hash
from rdt.models.pipeline import declared, read_component
from rdt.policy import Setup

Pipeline = Any  # a diffusers pipeline with its text encoders, without its UNet and autoencoder
PipelineEncode = Callable[[Pipeline, int, list[str]], Cond]  # (pipeline, T5 tokens, prompts) -> condition
UNNEEDED = ("unet", "vae", "safety_checker", "feature_extractor", "image_encoder")  # components that are not loaded


@dataclass(frozen=True)
class Text:
    """Name a pipeline's folder and the functions that encode its prompts."""

    folder: Path
    kinds: Mapping[Any, PipelineEncode]  # pipeline class that the folder may declare -> how that class encodes prompts
    tokens: int = 77  # that the T5 encoder reads, if there is one
    without: tuple[str, ...] = ()  # components that are left out


@dataclass(frozen=True)
class Encoders:
    """Hold a model's prompt encoding; the functions are those of `Parts`."""

    encode: Encode
    prepare: Callable[[Sequence[str]], None]
    overlong: Callable[[Sequence[str]], int]
    resident: list[nn.Module]  # the text encoders, if they stay in memory


def encoders(text: Text, network: nn.Module, setup: Setup) -> Encoders:
    """Return the text encoders themselves, or, if the setup has a folder for them, conditions that they wrote to it."""
    kind = declared(text.folder, *text.kinds)
    overlong = overlong_counter(text.folder, text.tokens, text.without)

    def load(device: torch.device) -> tuple[Encode, list[nn.Module]]:
        pipeline = _pipeline(kind, text, network, setup)
        modules = [m.eval() for m in pipeline.components.values() if isinstance(m, nn.Module) and m is not network]
        return partial(text.kinds[kind], pipeline, text.tokens), [module.to(device) for module in modules]

    if setup.embeddings is None:
        encode, resident = load(torch.device("cpu"))
        return Encoders(encode, lambda prompts: None, overlong, resident)
    subfolder = encoders_hash(text.folder, setup.precision, text.tokens, text.without)
    stored = Embeddings(Path(setup.embeddings).expanduser() / subfolder, lambda: load(_fastest())[0])
    return Encoders(stored, stored.prepare, overlong, [])


def overlong_counter(folder: Path, tokens: int, without: Sequence[str]) -> Callable[[Sequence[str]], int]:
    """Return a function that counts the prompts that every tokenizer of a pipeline's folder would cut off.

    Of T5 only `tokens` tokens are read. `without` names tokenizers that are left out.
    """

    @cache  # tokenizers are loaded at the first count
    def tokenizers() -> list[tuple[Any, int]]:
        names = sorted(path.name for path in folder.glob("tokenizer*") if path.is_dir() and path.name not in without)
        load = partial(AutoTokenizer.from_pretrained, trust_remote_code=False)  # unset, it would offer to run code
        loaded = [read_component(folder, name, partial(load, folder / name)) for name in names]
        return [(tokenizer, _limit(tokenizer, tokens)) for tokenizer in loaded]

    def overlong(prompts: Sequence[str]) -> int:
        if not prompts:
            return 0
        cut = [
            [len(ids) > limit for ids in tokenizer(list(prompts), truncation=False, verbose=False).input_ids]
            for tokenizer, limit in tokenizers()
        ]
        return sum(all(prompt) for prompt in zip(*cut, strict=True))

    return overlong


def _limit(tokenizer: Any, tokens: int) -> int:
    longest = tokenizer.model_max_length
    return longest if isinstance(tokenizer, CLIPTokenizer) else min(longest, tokens)


def _pipeline(kind: Any, text: Text, network: nn.Module, setup: Setup) -> Pipeline:
    """Return the pipeline of class `kind` with text encoders and tokenizers alone."""
    parameters = inspect.signature(kind.__init__).parameters
    left_out: dict[str, Any] = {name: None for name in (*UNNEEDED, *text.without) if name in parameters}
    if "transformer" in parameters:
        left_out["transformer"] = network  # Stable Diffusion 3 without T5 pads to this network's width
    options = {"torch_dtype": setup.dtype, "local_files_only": True}
    return read_component(text.folder, "text_encoder", lambda: kind.from_pretrained(text.folder, **options, **left_out))


def _fastest() -> torch.device:
    """Return this process's GPU, which still has room when encoders are loaded, or the host."""
    rank = int(os.environ.get("LOCAL_RANK", 0))
    return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
