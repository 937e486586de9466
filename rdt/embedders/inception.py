"""Inception v3 as an embedder, as FID has always used it (Szegedy et al. 2016; Heusel et al. 2017): 2,048 features.

It has TensorFlow's weights of 2015-12-05 in PyTorch's published layout, resizes images as TensorFlow 1 did, and leaves
the border out of averages.
"""

from collections.abc import Iterable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt.embedders.vision import Embedder
from rdt.weights import load_tensors, pinned

SIDE, EPSILON = 299, 1e-3
STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "max", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "max")
A = ("branch1x1", "branch5x5_1 branch5x5_2", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3", "mean branch_pool")
B = ("branch3x3", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3", "max")
C = ("branch1x1", "branch7x7_1 branch7x7_2 branch7x7_3",
     "branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5", "mean branch_pool")  # fmt: skip
D = ("branch3x3_1 branch3x3_2", "branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4", "max")
E = ("branch1x1", "branch3x3_1 branch3x3_2a|branch3x3_2b",
     "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a|branch3x3dbl_3b", "mean branch_pool")  # fmt: skip
LAST = (*E[:3], "max_same branch_pool")
BLOCKS = {  # parallel branches; steps of a branch are separated by spaces, a|b are two convolutions of one input
    "Mixed_5b": A, "Mixed_5c": A, "Mixed_5d": A, "Mixed_6a": B, "Mixed_6b": C, "Mixed_6c": C, "Mixed_6d": C,
    "Mixed_6e": C, "Mixed_7a": D, "Mixed_7b": E, "Mixed_7c": LAST,
}  # fmt: skip
HALVING = ("Conv2d_1a_3x3", "Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3", "Mixed_7a.branch3x3_2",
           "Mixed_7a.branch7x7x3_4")  # stride 2  # fmt: skip
BARE = (*HALVING, "Conv2d_2a_3x3", "Conv2d_4a_3x3")  # without padding


class Inception(Embedder):
    """Returns FID's features; layer sizes are read from the weights, each batch norm is folded into its convolution."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict({_flat(name): _convolution(tensors, name) for name in convolutions()})
        self.requires_grad_(False)

    def embed(self, images: Tensor) -> Tensor:
        x = (resized((images * 255).round()) - 128) / 128  # FID is defined on 8-bit images
        for name in STEM:
            x = self._step(x, "", name)
        for block, branches in BLOCKS.items():
            x = torch.cat([self._branch(x, f"{block}.", branch) for branch in branches], 1)
        return x.mean((2, 3))

    def _branch(self, x: Tensor, block: str, branch: str) -> Tensor:
        for step in branch.split():
            x = torch.cat([self._step(x, block, name) for name in step.split("|")], 1)
        return x

    def _step(self, x: Tensor, block: str, name: str) -> Tensor:
        if name == "max":
            return F.max_pool2d(x, 3, 2)
        if name == "max_same":
            return F.max_pool2d(x, 3, 1, 1)
        if name == "mean":
            return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.convolutions[_flat(block + name)](x).relu()


@lru_cache
def inception(*, checkpoint: str, sha256: str | None) -> Inception:
    """Return FID's Inception from its published file, pt_inception-2015-12-05-6726825d.pth, without the classifier."""
    return Inception(load_tensors(pinned(checkpoint, sha256)))


def convolutions() -> Iterable[str]:
    """Yield the names of all convolutions, as in the file."""
    yield from (name for name in STEM if name != "max")
    for block, branches in BLOCKS.items():
        steps = (name for branch in branches for step in branch.split() for name in step.split("|"))
        yield from (f"{block}.{name}" for name in steps if name.startswith("branch"))


def resized(x: Tensor) -> Tensor:
    """Return images resized to 299 x 299 as TensorFlow 1 did: bilinear at i h / 299, without a half-pixel offset."""
    for dim in (2, 3):
        size = x.shape[dim]
        at = torch.arange(SIDE, device=x.device, dtype=x.dtype) * (size / SIDE)
        low = at.long()
        share = (at - low).view(-1, 1) if dim == 2 else at - low
        x = torch.lerp(x.index_select(dim, low), x.index_select(dim, (low + 1).clamp(max=size - 1)), share)
    return x


def _convolution(tensors: dict[str, Tensor], name: str) -> nn.Conv2d:
    keys = [f"{name}.conv.weight", *(f"{name}.bn.{k}" for k in ("weight", "bias", "running_mean", "running_var"))]
    if missing := [key for key in keys if key not in tensors]:
        raise ValueError(f"checkpoint lacks the key {missing[0]!r}: it is not FID's Inception")
    weight, gain, shift, mean, variance = (tensors[key].float() for key in keys)
    out, into, *sides = weight.shape
    padding = (0, 0) if name in BARE else (sides[0] // 2, sides[1] // 2)
    convolution = nn.Conv2d(into, out, tuple(sides), 2 if name in HALVING else 1, padding)
    scale = gain / (variance + EPSILON).sqrt()
    convolution.load_state_dict({"weight": weight * scale.view(-1, 1, 1, 1), "bias": shift - mean * scale})
    return convolution


def _flat(name: str) -> str:
    return name.replace(".", "/")
