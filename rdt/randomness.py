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
    starts: Sequence[int] | None = None  # B indices whose initial noise the samples share; None: each has its own

    def __getitem__(self, rows: slice | Tensor) -> "Noise":
        """Return the noise of some of the samples."""
        rows = rows.cpu() if isinstance(rows, Tensor) else rows
        return replace(self, indices=_taken(self.indices, rows), starts=self.starts and _taken(self.starts, rows))

    def __add__(self, other: "Noise") -> "Noise":
        """Return the noise of both; ValueError if they are not of one stream."""
        if replace(self, indices=(), starts=None) != replace(other, indices=(), starts=None):
            raise ValueError(
                f"noise {self.purpose} of seed={self.seed} and {other.purpose} of seed={other.seed} differ"
            )
        shared = None if self.starts is other.starts is None else [*self.initials, *other.initials]
        return replace(self, indices=[*self.indices, *other.indices], starts=shared)

    @property
    def initials(self) -> Sequence[int]:
        """Return the B indices whose noise sampling starts from."""
        return self.indices if self.starts is None else self.starts

    def initial(self) -> Tensor:
        """Return the noise (B, *shape) that sampling starts from."""
        return self._drawn("initial", self.initials)

    def step(self, i: int) -> Tensor:
        """Return the noise (B, *shape) of sampler step i, which does not depend on the order of the calls."""
        return self._drawn(i, self.indices)

    def like(self, x: Tensor, purpose: str) -> Tensor:
        """Return noise (B, ...) in the shape of x for a further purpose, such as noise on a sample's condition."""
        return replace(self, purpose=f"{self.purpose} {purpose}", shape=x.shape[1:], starts=None).initial()

    def _drawn(self, key: int | str, indices: Sequence[int]) -> Tensor:
        # Drawn on the host into pinned memory: equal on every device, and no step waits for the copy.
        pinned = torch.device(self.device).type == "cuda"
        rows = torch.empty(len(indices), *self.shape, pin_memory=pinned)
        for row, index in zip(rows, indices, strict=True):
            row.normal_(generator=generator("noise", self.seed, self.purpose, index, key))
        return rows.to(self.device, non_blocking=True)


def _taken(indices: Sequence[int], rows: slice | Tensor) -> list[int]:
    """Return some of the indices."""
    return torch.tensor(indices, dtype=torch.long)[rows].tolist()
