"""Measures of images in the embedded world; the oracle computes diversity, fidelity and features."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.shapes.distribution import sampled_entropy
from rdt.shapes.grammar import stated
from rdt.shapes.oracle import shared_oracle
from rdt.shapes.world import match, quality


@dataclass(frozen=True, kw_only=True)
class _ByOracle:
    """Names the checkpoint of the oracle that a measure uses."""

    oracle: str

    def __post_init__(self) -> None:
        shared_oracle(self.oracle)  # a missing checkpoint is reported here, not after hours of training


class FreeEntropy(_ByOracle):
    """Measures diversity as the normalised plug-in entropy of the attributes that a prompt leaves free, in [0, 1]."""

    @torch.no_grad()
    def __call__(self, images: Tensor, prompt: str) -> dict[str, float]:
        """Return the entropy of images (n, 3, 32, 32) of one prompt; ValueError if it is outside the grammar."""
        modes = shared_oracle(self.oracle, images.device).read(images).modes
        return {"entropy": sampled_entropy(modes[None], stated([prompt])).item()}


class Fidelity(_ByOracle):
    """Measures what the annotator's utility is made of besides taste, and how far images are from every render."""

    @torch.no_grad()
    def __call__(self, images: Tensor, prompt: str) -> dict[str, float]:
        """Return means over images (n, 3, 32, 32) of one prompt; ValueError if it is outside the grammar.

        `residual` is the RMS pixel distance to the nearest render of the mode shown, 0 if natural; `quality` that of
        the finish; `match` the share of stated attributes that are right.
        """
        read = shared_oracle(self.oracle, images.device).read(images)
        right = match(read.modes, stated([prompt]).expand_as(read.modes))
        columns = {"residual": read.residual, "quality": quality(read.finish), "match": right}
        return {name: column.mean().item() for name, column in columns.items()}


class OracleEmbedder(_ByOracle):
    """Embeds images for this world's Vendi score and pairwise distances."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features (n, 64) of images (n, 3, 32, 32)."""
        return shared_oracle(self.oracle, images.device).read(images).embedding.to(images.device)
