"""Measures of images in the embedded world; the oracle computes diversity, naturalness and features."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rdt.shapes.distribution import sampled_entropy
from rdt.shapes.grammar import stated
from rdt.shapes.oracle import shared_oracle


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
        modes = shared_oracle(self.oracle, images.device).read(images).cpu()
        return {"entropy": sampled_entropy(modes[None], stated([prompt])).item()}


class Naturalness(_ByOracle):
    """Measures the mean distance of images to the nearest render of the mode they show; 0 is perfectly natural."""

    @torch.no_grad()
    def __call__(self, images: Tensor, prompt: str) -> dict[str, float]:
        """Return the mean residual of images (n, 3, 32, 32), which is independent of the prompt."""
        return {"residual": shared_oracle(self.oracle, images.device).residual(images).mean().item()}


class OracleEmbedder(_ByOracle):
    """Embeds images for this world's Vendi score and pairwise distances."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features (n, 64) of images (n, 3, 32, 32)."""
        return shared_oracle(self.oracle, images.device)(images)
