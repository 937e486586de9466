"""The text encoders of a pipeline's folder, and the count of prompts that are longer than they read.

Each family defines how its pipeline classes encode prompts, as the stock diffusers classes do. The encoders stay in
memory, or they write conditions to disk and are freed. What exceeds a tokenizer's limit is cut off and has no effect,
so such prompts are counted.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTextConfig, CLIPTokenizer

from rdt import ranks
from rdt.checkpoint import INDEX, UNREAD, read_config
from rdt.cond import Cond, Embeddings, Encode, encoders_hash
from rdt.models.pipeline import component, declared, image_decoder, read_component
from rdt.policy import Parts, Setup

Pipeline = Any  # a diffusers pipeline with its text encoders, without its UNet and autoencoder
PipelineEncode = Callable[[Pipeline, int, list[str]], Cond]  # (pipeline, T5 tokens, prompts) -> condition
UNNEEDED = ("unet", "vae", "scheduler", *UNREAD)  # components that the text encoders do not need


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

    def beside(self, vae: AutoencoderKL, setup: Setup) -> Callable[..., Parts]:
        """Return the constructor of `Parts` that have this encoding of prompts and the decoder of an autoencoder."""
        frozen = nn.ModuleList([*self.resident, vae])
        return partial(
            Parts, encode=self.encode, prepare=self.prepare, overlong=self.overlong,
            decode=image_decoder(vae, setup), frozen=frozen,
        )  # fmt: skip


@dataclass(frozen=True)
class Widths:
    """Hold the channels of a condition that a network reads."""

    tokens: int
    pooled: int | None  # None: the network reads no pooled prompt


def encoders(text: Text, network: nn.Module, widths: Widths, setup: Setup) -> Encoders:
    """Return the text encoders themselves, or, if the setup has a folder for them, conditions that they wrote to it."""
    kind = declared(text.folder, *text.kinds)
    classes = dict(_classes(kind, text))
    overlong = overlong_counter(text, classes)

    def load(device: torch.device) -> tuple[Encode, list[nn.Module]]:
        pipeline = _pipeline(kind, text, classes, network, setup)
        modules = [m.eval() for m in pipeline.components.values() if isinstance(m, nn.Module) and m is not network]
        encode = partial(text.kinds[kind], pipeline, text.tokens)
        return _fitted(encode, widths, text.folder), [module.to(device) for module in modules]

    if setup.embeddings is None:
        encode, resident = load(torch.device("cpu"))
        return Encoders(encode, lambda prompts: None, overlong, resident)
    index = sorted(read_config(text.folder / INDEX).items())
    subfolder = encoders_hash(text.folder, setup.precision, text.tokens, text.without, repr(index))
    stored = Embeddings(Path(setup.embeddings).expanduser() / subfolder, lambda: load(_fastest())[0])
    return Encoders(stored, stored.prepare, overlong, [])


def overlong_counter(text: Text, classes: Mapping[str, Any]) -> Callable[[Sequence[str]], int]:
    """Return a function that counts the prompts that every tokenizer of a pipeline would cut off.

    `classes` holds the classes of tokenizers and text encoders by their names in the pipeline.
    """

    @cache  # tokenizers are loaded at the first count
    def tokenizers() -> list[tuple[Any, int]]:
        loaded = [_tokenizer(text.folder, name, classes[name]) for name in classes if name.startswith("tokenizer")]
        return [(each, each.model_max_length if isinstance(each, CLIPTokenizer) else text.tokens) for each in loaded]

    def overlong(prompts: Sequence[str]) -> int:
        if not prompts:
            return 0
        cut = [
            [len(ids) > limit for ids in tokenizer(list(prompts), truncation=False, verbose=False).input_ids]
            for tokenizer, limit in tokenizers()
        ]
        return sum(all(prompt) for prompt in zip(*cut, strict=True))

    return overlong


def _classes(kind: Any, text: Text) -> Iterator[tuple[str, Any]]:
    """Yield name and class of the text encoders and tokenizers that a pipeline class has.

    ValueError if the folder's index names none, or another class.
    """
    index = read_config(text.folder / INDEX)
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if not name.startswith(("text_encoder", "tokenizer")) or name in text.without:
            continue
        entry, expected = index.get(name), parameter.annotation
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if found is None:
            cure = "; set model.policy.t5=false" if name in ("text_encoder_3", "tokenizer_3") else ""
            raise ValueError(
                f"checkpoint {text.folder} has no {name}, which a {kind.__name__} reads prompts with{cure}"
            )
        if str(found).removesuffix("Fast") != expected.__name__:
            raise ValueError(f"checkpoint {text.folder}: {name} is a {found}; expected a {expected.__name__}")
        yield name, expected


def _fitted(encode: Encode, widths: Widths, folder: Path) -> Encode:
    """Return `encode`, which then raises ValueError if the network cannot read its conditions."""

    def checked(prompts: list[str]) -> Cond:
        cond = encode(prompts)
        pooled = None if cond.pooled is None or widths.pooled is None else cond.pooled.shape[-1]
        if (found := Widths(cond.embeds.shape[-1], pooled)) != widths:
            raise ValueError(f"checkpoint {folder}: its text encoders give {found}, the network reads {widths}")
        return cond

    return checked


def _tokenizer(folder: Path, name: str, kind: Any) -> Any:
    """Return a tokenizer, which CLIP's encoder limits to its table of positions if the tokenizer's config does not."""
    load = partial(kind.from_pretrained, folder, subfolder=name, local_files_only=True)
    tokenizer = read_component(folder, name, load)
    if kind is CLIPTokenizer:
        encoder = name.replace("tokenizer", "text_encoder")
        config = read_component(folder, encoder, partial(CLIPTextConfig.from_pretrained, folder, subfolder=encoder))
        tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
    return tokenizer


def _pipeline(kind: Any, text: Text, classes: Mapping[str, Any], network: nn.Module, setup: Setup) -> Pipeline:
    """Return the pipeline of class `kind` with text encoders and tokenizers alone."""
    parameters = inspect.signature(kind.__init__).parameters
    given: dict[str, Any] = {name: None for name in (*UNNEEDED, *text.without) if name in parameters}
    if "transformer" in parameters:
        given["transformer"] = network  # Stable Diffusion 3 without T5 pads to this network's width
    for name, each in classes.items():
        tokenizer = name.startswith("tokenizer")
        given[name] = _tokenizer(text.folder, name, each) if tokenizer else component(each, text.folder, name, setup)
    return read_component(text.folder, INDEX, lambda: kind.from_pretrained(text.folder, local_files_only=True, **given))


def _fastest() -> torch.device:
    """Return this process's GPU, which still has room when encoders are loaded, or the host."""
    return torch.device("cuda", ranks.here().local) if torch.cuda.is_available() else torch.device("cpu")
