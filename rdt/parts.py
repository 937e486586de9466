"""The pieces of a text-to-image model that a policy is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rdt.cond import Cond
from rdt.process import Process


@dataclass(frozen=True)
class Adapter:
    """The low-rank adapter that is trained."""

    rank: int
    alpha: int
    targets: Sequence[str]


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
