"""Count what a row through a network of full size costs, on torch's meta device, whose tensors have shapes but no data.

The count is that of a run on a GPU: blocks are checkpointed, activations are bf16 except in norms, and gradients go to
adapters and latents.
"""

import dataclasses
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from rdt.models import pipeline, sd3, sdxl
from rdt.policy import Adapter, Cond, Policy, Setup

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from worlds import full_size_checkpoints, tiny_policy
from worlds.published_networks import PUBLISHED

PROMPT = {"sd15": (77, 768, 0), "sdxl": (77, 2048, 1280), "sd3": (77 + 256, 4096, 2048)}  # tokens, width, pooled
PREDICT = {"sd15": tiny_policy.parts().predict, "sdxl": partial(sdxl.predict, 1024.0), "sd3": sd3.predict}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Holds the cost of one row through a network, or of one image."""

    forward: int  # operations
    back: int  # operations, those of recomputed blocks included
    kept: int  # bytes kept from the forward to the backward pass, without weights
    weights: int  # bytes
    latent: int  # elements


@cache
def network(model: str, side: int, rank: int) -> Cost:
    """Return the cost of the tuned network for images `side` pixels high and wide."""
    kind, config = PUBLISHED[model][:2]
    with full_size_checkpoints.half_on("meta"):
        module = kind(**config)
    weights = size(module)
    policy = Policy(
        dataclasses.replace(tiny_policy.parts(consistency_rank=0), network=module),
        Adapter(rank, rank, tiny_policy.TARGETS),
    )
    policy.checkpoint_blocks()
    cast_as_autocast(module)
    tokens, width, pooled = PROMPT[model]
    cond = Cond(zeros(1, tokens, width).bfloat16(), zeros(1, pooled).bfloat16())
    x = zeros(1, module.config.in_channels, side // 8, side // 8).requires_grad_()
    return cost(module, weights, x, lambda: PREDICT[model](module, x.bfloat16(), zeros(), cond))


@cache
def decoder(side: int, slicing: bool) -> Cost:
    """Return the cost for images `side` pixels high and wide; only the first layer of SD 3.5's decoder differs."""
    with full_size_checkpoints.half_on("meta"):
        vae = full_size_checkpoints.vae(1.0).requires_grad_(False)
    x0 = zeros(1, 4, side // 8, side // 8).requires_grad_()
    return cost(vae, size(vae), x0, lambda: pipeline.image_decoder(vae, Setup(slicing=slicing))(x0))


def cast_as_autocast(network: nn.Module) -> None:
    """Run adapters in bf16 and norms in fp32, as autocast does on a GPU; the meta device has no autocast."""
    for weight in network.parameters():
        weight.data = weight.data.bfloat16()
    for norm in (module for module in network.modules() if isinstance(module, nn.GroupNorm | nn.LayerNorm)):
        norm.float().register_forward_pre_hook(lambda _, inputs: tuple(x.float() for x in inputs))
        norm.register_forward_hook(lambda _, inputs, output: output.bfloat16())


def cost(module: nn.Module, weights: int, x: Tensor, run: Callable[[], Tensor]) -> Cost:
    """Return the cost of `run`, which calls the module on the latents x (1, *latent)."""
    saved: dict[int, torch.UntypedStorage] = {}
    with FlopCounterMode(display=False) as forward, saved_tensors_hooks(partial(keep, saved), lambda x: x):
        output = run()
    with FlopCounterMode(display=False) as back:
        output.sum().backward()
    for weight in module.parameters():
        saved.pop(weight.untyped_storage()._cdata, None)
    kept = sum(storage.nbytes() for storage in saved.values())
    return Cost(forward.get_total_flops(), back.get_total_flops(), kept, weights, x.numel())


def keep(saved: dict[int, torch.UntypedStorage], x: Tensor) -> Tensor:
    """Record the memory of x in `saved`, once for all views of it."""
    memory = x.untyped_storage()
    saved[memory._cdata] = memory
    return x


def size(module: nn.Module) -> int:
    """Return the bytes of a module's weights."""
    return sum(weight.nbytes for weight in module.parameters())


def zeros(*shape: int) -> Tensor:
    """Return zeros on the meta device."""
    return torch.zeros(shape, device="meta")
