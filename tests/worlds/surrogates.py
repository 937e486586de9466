"""Builds surrogates of tiny images on features that need no checkpoint."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt.rewards.surrogate import Bootstrap, Fit, Surrogate, Ucb
from worlds import tiny_policy

DIMS = 4


class Patches(nn.Module):
    """Computes features of 4 x 4 images: smooth functions of their brightness and of random projections."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "weights", torch.cat([torch.full((3 * 16, 1), 0.1), tiny_policy.normal(3 * 16, DIMS - 1)], 1)
        )

    def image_features(self, images: Tensor) -> Tensor:
        return ((images - 0.5).flatten(1) @ self.weights).tanh()

    def text_features(self, prompts: list[str]) -> Tensor:
        return F.normalize(
            torch.stack([tiny_policy.normal(DIMS, seed=sum(prompt.encode())) for prompt in prompts]), dim=-1
        )


def surrogate(kind: str, beta: float = 1.0, **changed: Any) -> Surrogate:
    """Return an unfitted surrogate of a kind; `changed` replaces options of it."""
    if kind == "ucb":
        return Ucb(features=Patches(), beta=beta, ridge=changed.get("ridge", 1.0))
    descent = Fit(steps=changed.get("steps", 200), batch_size=32, lr=1e-2, weight_decay=0.01)
    return Bootstrap(features=Patches(), beta=beta, members=changed.get("members", 4), width=16, descent=descent)
