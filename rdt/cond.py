"""What a network is conditioned on, and the type of everything that answers like one.

Conditions of prompts, kept on disk: text encoders, larger than some networks, are loaded for new prompts alone.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rdt.weights import load_tensors

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


Encode = Callable[[list[str]], Cond]


class Embeddings:
    """The conditions in a folder, one file a prompt; what is not there is made by the encoders that `load` brings."""

    def __init__(self, folder: Path, load: Callable[[], Encode]) -> None:
        self.folder, self._load = folder, load

    def __call__(self, prompts: list[str]) -> Cond:
        self.prepare(prompts)
        found = [load_tensors(self._file(prompt)) for prompt in prompts]
        return Cond.cat(*(Cond(tensors["embeds"], tensors.get("pooled")) for tensors in found))

    def prepare(self, prompts: Sequence[str]) -> None:
        """Make all that is missing and let the encoders go; the processes of a run each begin at another prompt."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if not self._file(prompt).is_file()]
        if not missing:
            return
        encode = self._load()
        first = len(missing) * int(os.environ.get("RANK", 0)) // int(os.environ.get("WORLD_SIZE", 1))
        for prompt in missing[first:] + missing[:first]:
            if not self._file(prompt).is_file():
                self._write(prompt, encode([prompt]))  # alone: in company the last bits depend on who else is new

    def _write(self, prompt: str, cond: Cond) -> None:
        """Under a temporary name, then renamed."""
        tensors: dict[str, Tensor | None] = {"embeds": cond.embeds, "pooled": cond.pooled}
        present = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self._file(prompt).with_suffix(f".{os.getpid()}.tmp")
        save_file(present, temporary)
        temporary.replace(self._file(prompt))

    def _file(self, prompt: str) -> Path:
        return self.folder / f"{hashlib.sha256(prompt.encode()).hexdigest()[:32]}.safetensors"


def identity(folder: Path, *settings: object) -> str:
    """What a prompt's condition hangs on: the files of the text encoders and tokenizers in a model's folder, which is
    named by its commit where it comes from the hub, and settings."""
    files = sorted(file for part in ("text_encoder*", "tokenizer*") for file in folder.glob(f"{part}/*"))
    known = [(file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((folder.resolve().as_posix(), known, settings)).encode()).hexdigest()[:16]
