"""The text encoders of a pipeline's folder: each kind of pipeline encodes prompts as its own stock class does.

Prompts that are longer than a model reads: they are counted, for what is cut off is silently without effect.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTokenizer

from rdt.cond import Cond, Embeddings, Encode, identity
from rdt.models.pipeline import declared, image_decoder, read
from rdt.policy import Parts, Setup


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


Pipeline = Any  # a diffusers pipeline without what images are made with


@dataclass(frozen=True)
class Text:
    """Where and how prompts become conditions."""

    folder: Path
    kinds: tuple[str, ...]  # the classes of pipeline it may be
    tokens: int = 77  # of the T5 encoder, where there is one
    without: tuple[str, ...] = ()  # components that are left out


@dataclass(frozen=True)
class Encoders:
    """Prompts encoded; the fields are those of `Parts`."""

    encode: Encode
    prepare: Callable[[Sequence[str]], None]
    overlong: Callable[[Sequence[str]], int]
    resident: list[nn.Module]  # encoders that stay


def common(text: Text, network: nn.Module, vae: AutoencoderKL, setup: Setup) -> Callable[..., Parts]:
    """The parts of a model, but for what is its network's own: prompts are encoded and images decoded alike."""
    known = encoders(text, network, setup)
    return partial(
        Parts,
        network=network,
        encode=known.encode,
        prepare=known.prepare,
        overlong=known.overlong,
        decode=image_decoder(vae, setup),
        frozen=nn.ModuleList([*known.resident, vae]),
    )


def encoders(text: Text, network: nn.Module, setup: Setup) -> Encoders:
    """The encoders themselves, or conditions on disk that are made by them, and then they go."""
    encode, overlong = KINDS[declared(text.folder, *text.kinds)], counter(text.folder, text.tokens, text.without)

    def load(device: torch.device) -> tuple[Encode, list[nn.Module]]:
        pipeline = _pipeline(text, network, setup)
        modules = [m.eval() for m in pipeline.components.values() if isinstance(m, nn.Module) and m is not network]
        return partial(encode, pipeline, text.tokens), [module.to(device) for module in modules]

    if setup.embeddings is None:
        resident, modules = load(torch.device("cpu"))
        return Encoders(resident, lambda prompts: None, overlong, modules)
    place = identity(text.folder, setup.precision, text.tokens, text.without)
    stored = Embeddings(Path(setup.embeddings).expanduser() / place, lambda: load(_fastest())[0])
    return Encoders(stored, stored.prepare, overlong, [])


def token_ids(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """(B, L), padded and cut to what the text encoder takes."""
    length = tokenizer.model_max_length
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def _pipeline(text: Text, network: nn.Module, setup: Setup) -> Pipeline:
    kind = getattr(diffusers, declared(text.folder, *text.kinds))
    unneeded = ("unet", "vae", "safety_checker", "feature_extractor", "image_encoder", *text.without)
    own = inspect.signature(kind.__init__).parameters
    left_out: dict[str, Any] = {name: None for name in unneeded if name in own}
    if "transformer" in own:
        left_out["transformer"] = network  # whose width Stable Diffusion 3 pads to where it has no T5
    return read(text.folder, "text_encoder", lambda: kind.from_pretrained(
        text.folder, torch_dtype=setup.dtype, local_files_only=True, **left_out
    ))  # fmt: skip


def _fastest() -> torch.device:
    """This process's GPU, on which there is still room, or the host."""
    rank = int(os.environ.get("LOCAL_RANK", 0))
    return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")


def _one(pipeline: Pipeline, tokens: int, prompts: list[str]) -> Cond:
    """Stable Diffusion 1.5; the flow twin takes what the prompt says as a whole too."""
    text = pipeline.text_encoder(token_ids(pipeline.tokenizer, prompts).to(pipeline.text_encoder.device))
    return Cond(text.last_hidden_state, text.pooler_output)


def _two(pipeline: Pipeline, tokens: int, prompts: list[str]) -> Cond:
    """SDXL: the empty prompt, guidance's, is zeros where the folder says so."""
    embeds, _, pooled, _ = pipeline.encode_prompt(
        prompts, device=pipeline.text_encoder.device, do_classifier_free_guidance=False
    )
    zero = torch.tensor([pipeline.config.force_zeros_for_empty_prompt and not prompt for prompt in prompts])
    zero = zero.to(embeds.device)
    return Cond(embeds.masked_fill(zero[:, None, None], 0), pooled.masked_fill(zero[:, None], 0))


def _three(pipeline: Pipeline, tokens: int, prompts: list[str]) -> Cond:
    """Stable Diffusion 3: two CLIPs side by side, T5's tokens behind them, or zeros where T5 was left out."""
    embeds, _, pooled, _ = pipeline.encode_prompt(
        prompts, prompts, prompts, device=pipeline.text_encoder.device, do_classifier_free_guidance=False,
        max_sequence_length=tokens,
    )  # fmt: skip
    return Cond(embeds, pooled)


def _flux(pipeline: Pipeline, tokens: int, prompts: list[str]) -> Cond:
    """FLUX: T5's tokens, and CLIP's word for the whole."""
    embeds, pooled, _ = pipeline.encode_prompt(
        prompts, prompts, device=pipeline.text_encoder.device, max_sequence_length=tokens
    )
    return Cond(embeds, pooled)


KINDS: dict[str, Callable[[Pipeline, int, list[str]], Cond]] = {
    "StableDiffusionPipeline": _one,
    "StableDiffusionXLPipeline": _two,
    "StableDiffusion3Pipeline": _three,
    "FluxPipeline": _flux,
}
