"""Counter-based randomness: a key names each stream, so no draw depends on batching, world size or history."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


def generator(*key: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return the generator that this key names; the same key gives the same stream in any process."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Draw standard normal noise of B samples, keyed by (seed, purpose, sample index).

    A sample gets the same noise in any batch, on any device and at any world size.
    """

    seed: int
    purpose: str
    indices: Sequence[int]  # B global sample indices
    shape: Sequence[int]  # of one sample's noise
    device: str | torch.device

    def __getitem__(self, rows: slice | Tensor) -> "Noise":
        """Return the noise of some of the samples."""
        rows = rows.cpu() if isinstance(rows, Tensor) else rows
        return replace(self, indices=torch.tensor(self.indices, dtype=torch.long)[rows].tolist())

    def __add__(self, other: "Noise") -> "Noise":
        """Return the noise of both; ValueError if they are not of one stream."""
        if replace(self, indices=()) != replace(other, indices=()):
            raise ValueError(
                f"noise {self.purpose} of seed={self.seed} and {other.purpose} of seed={other.seed} differ"
            )
        return replace(self, indices=[*self.indices, *other.indices])

    def initial(self) -> Tensor:
        """Return the noise (B, *shape) that sampling starts from."""
        return self._drawn("initial")

    def step(self, i: int) -> Tensor:
        """Return the noise (B, *shape) of sampler step i, which does not depend on the order of the calls."""
        return self._drawn(i)

    def like(self, x: Tensor, purpose: str) -> Tensor:
        """Return noise (B, ...) in the shape of x for a further purpose, such as noise on a sample's condition."""
        return replace(self, purpose=f"{self.purpose} {purpose}", shape=x.shape[1:]).initial()

    def _drawn(self, key: int | str) -> Tensor:
        # Drawn on the host into pinned memory: equal on every device, and no step waits for the copy.
        pinned = torch.device(self.device).type == "cuda"
        rows = torch.empty(len(self.indices), *self.shape, pin_memory=pinned)
        for row, index in zip(rows, self.indices, strict=True):
            row.normal_(generator=generator("noise", self.seed, self.purpose, index, key))
        return rows.to(self.device, non_blocking=True)
