"""Measures of one prompt's images in the embedded world, all by the oracle's eyes: diversity, naturalness, features."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from rdt.shapes.distribution import sample_diversity
from rdt.shapes.grammar import stated
from rdt.shapes.oracle import Oracle
from rdt.weights import locate


def oracle(source: str, device: torch.device | str = "cpu") -> Oracle:
    """The frozen oracle of a checkpoint, loaded once per file and device."""
    return _load(locate(source), str(device))


@lru_cache
def _load(path: Path, device: str) -> Oracle:
    return Oracle.load(path).to(device)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    oracle: str

    def __post_init__(self) -> None:
        oracle(self.oracle)  # a missing checkpoint is reported here, not after hours of training


class FreeEntropy(_Seen):
    """Diversity with a known maximum: the normalised plug-in entropy of what the prompt leaves free, in [0, 1]."""

    @torch.no_grad()
    def __call__(self, images: Tensor, prompt: str) -> dict[str, float]:
        """Images (n, 3, 32, 32) of one prompt; ValueError on a prompt outside the grammar."""
        modes = oracle(self.oracle, images.device).read(images).cpu()
        return {"entropy": sample_diversity(modes[None], stated([prompt])).item()}


class Naturalness(_Seen):
    """Mean distance of the images to the nearest render of what they show; 0 is perfectly natural."""

    @torch.no_grad()
    def __call__(self, images: Tensor, prompt: str) -> dict[str, float]:
        """Images (n, 3, 32, 32); any prompt."""
        return {"residual": oracle(self.oracle, images.device).residual(images).mean().item()}


class OracleEmbedder(_Seen):
    """The features in which Vendi and pairwise distances are taken in this world."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (n, 3, 32, 32) -> features (n, 64)."""
        return oracle(self.oracle, images.device)(images)
