"""What a network is conditioned on, and the type of everything that answers like one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cond:
    """What the network is conditioned on, one row per sample."""

    embeds: Tensor  # (B, L, D) token embeddings
    pooled: Tensor | None = None  # (B, E), where the model has them
    noise: "Cond | None" = None  # standard normal in these shapes, each row a sample's own, for guidance that wants it

    def __len__(self) -> int:
        return len(self.embeds)

    def __getitem__(self, rows: Any) -> "Cond":
        return self.map(lambda x: x[rows])

    def to(self, device: torch.device) -> "Cond":
        """The same on a device; a condition may be encoded before the policy moves there."""
        return self.map(lambda x: x.to(device))

    def map(self, change: Callable[..., Tensor], *others: "Cond") -> "Cond":
        """The condition whose tensors are `change` of this one's and of the others'."""
        embeds = change(self.embeds, *(other.embeds for other in others))
        pooled = None if self.pooled is None else change(self.pooled, *(other.pooled for other in others))
        noise = self.noise and self.noise.map(change, *(other.noise for other in others if other.noise))
        return Cond(embeds, pooled, noise)

    @staticmethod
    def cat(*conds: "Cond") -> "Cond":
        """Rows of all, in order."""
        return conds[0].map(lambda *tensors: torch.cat(tensors), *conds[1:])


Denoiser = Callable[[Tensor, Tensor, Cond], Tensor]  # (x, t, cond) -> network output
