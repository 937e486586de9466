"""What a network is conditioned on, and the type of everything that answers like one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MEMORY = 2**30  # bytes of conditions that are kept at hand


@dataclass(frozen=True)
class Cond:
    """What the network is conditioned on, one row per sample."""

    embeds: Tensor  # (B, L, D) token embeddings
    pooled: Tensor | None = None  # (B, E), where the model has them
    noise: "Cond | None" = None  # standard normal in these shapes, each row a sample's own, for guidance that wants it

    def __len__(self) -> int:
        return len(self.embeds)

    @property
    def bytes(self) -> int:
        """Of the tensors of what the prompt says."""
        return sum(x.nbytes for x in (self.embeds, self.pooled) if x is not None)

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


class Conditions:
    """The conditions of prompts, each encoded once while there is room; the oldest go first."""

    def __init__(self, encode: Callable[[list[str]], Cond], prepare: Callable[[Sequence[str]], None]) -> None:
        self._encode, self._prepare = encode, prepare
        self._known: dict[str, Cond] = {}

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], device: torch.device) -> Cond:
        """One row a prompt; encoded alone, since in company the last bits depend on who else is new."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if new:
            self._prepare(new)
        self._known |= {prompt: self._encode([prompt]) for prompt in new}
        asked = [self._known[prompt].to(device) for prompt in prompts]
        while len(self._known) > max(1, MEMORY // asked[0].bytes):
            del self._known[next(iter(self._known))]
        return Cond.cat(*asked)
