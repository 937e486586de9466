"""The pieces of a text-to-image model that a policy is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rdt.cond import Cond
from rdt.process import Process


@dataclass(frozen=True)
class Adapter:
    """The low-rank adapter that is trained."""

    rank: int
    alpha: int
    targets: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a model is run; the defaults are those of a small one."""

    precision: str = "fp32"  # of the frozen weights; the adapter is fp32 always
    resolution: int | None = None  # pixels of an image's side; None: what the network was configured for
    channels_last: bool = False
    compile: bool = False
    slicing: bool = False  # decode image by image, and blocks once more in the backward pass: for large images
    embeddings: str | None = None  # a folder for conditions, so that text encoders need not stay; None: they stay

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]


PLAIN = Setup()


@dataclass(frozen=True)
class Parts:
    """The pieces of a text-to-image model that a policy is made of; built by `rdt.models`."""

    network: nn.Module
    predict: Callable[[nn.Module, Tensor, Tensor, Cond], Tensor]  # calls the network, returns its raw output
    process: Process
    encode: Callable[[list[str]], Cond]  # frozen text encoders
    decode: Callable[[Tensor], Tensor]  # latents -> images (B, 3, H, W) in [0, 1], differentiable
    frozen: nn.ModuleList  # what encode and decode run, so that it moves with the policy
    latent_shape: tuple[int, ...]
    save_lora: Callable[[dict[str, Tensor], dict[str, Any], Any], None]  # (weights, metadata, folder), diffusers format
    prepare: Callable[[Sequence[str]], None] = lambda prompts: None  # told beforehand what encode will be asked for
    overlong: Callable[[Sequence[str]], int] = lambda prompts: 0  # how many of them it reads only the beginning of
