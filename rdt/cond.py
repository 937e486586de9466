"""What a network is conditioned on, the type of everything that answers like a network, and caches of conditions.

`Conditions` keeps the conditions of prompts in memory. `Embeddings` keeps them on disk, so that text encoders, which
can be larger than the network, are loaded only for new prompts.
"""

import hashlib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rdt import ranks
from rdt.files import replacing
from rdt.randomness import Noise
from rdt.weights import load_tensors

MEMORY = 2**30  # bytes of conditions that are kept in memory


@dataclass(frozen=True)
class Cond:
    """Hold what the network is conditioned on, one row per sample, and the key of the samples' noise on it.

    Only the key is kept: the noise is as large as the condition, and it is drawn if guidance asks for it.
    """

    embeds: Tensor  # (B, L, D) token embeddings
    pooled: Tensor | None = None  # (B, E), if the model has them
    noise: Noise | None = None  # of the samples, for guidance that perturbs conditions; None if they have none

    def __len__(self) -> int:
        return len(self.embeds)

    @property
    def bytes(self) -> int:
        """Return the size of `embeds` and `pooled` in bytes."""
        return sum(x.nbytes for x in (self.embeds, self.pooled) if x is not None)

    def __getitem__(self, rows: slice | Tensor) -> "Cond":
        return replace(self.map(lambda x: x[rows]), noise=self.noise and self.noise[rows])

    @cached_property
    def drawn(self) -> "Cond":
        """Return the noise, standard normal in these shapes, one row per sample; ValueError if there is none."""
        noise = self.noise
        if noise is None:
            raise ValueError(
                "cond carries no noise to draw; give it the samples' noise, as rdt.rollout.conditioned does"
            )
        return replace(self.map(lambda x: noise.like(x, f"condition {x.ndim}")), noise=None)

    def to(self, device: torch.device) -> "Cond":
        """Return this condition on a device; prompts may be encoded before the policy moves there."""
        return self.map(lambda x: x.to(device))

    def map(self, change: Callable[..., Tensor], *others: "Cond") -> "Cond":
        """Return the condition whose tensors are `change` of this one's and the others' tensors; the noise stays."""
        embeds = change(self.embeds, *(other.embeds for other in others))
        pooled = None if self.pooled is None else change(self.pooled, *(other.pooled for other in others))
        return Cond(embeds, pooled, self.noise)

    @staticmethod
    def cat(*conds: "Cond") -> "Cond":
        """Return the rows of all conditions, in order; they have noise if all of them do."""
        keys = [cond.noise for cond in conds if cond.noise is not None]
        noise = reduce(operator.add, keys) if len(keys) == len(conds) else None
        return replace(conds[0].map(lambda *tensors: torch.cat(tensors), *conds[1:]), noise=noise)


Denoiser = Callable[[Tensor, Tensor, Cond], Tensor]  # (x, t, cond) -> network output
Encode = Callable[[list[str]], Cond]  # (prompts) -> condition, one row per prompt


class Conditions:
    """Encode each prompt once and keep its condition in memory; the oldest are dropped beyond `MEMORY` bytes."""

    def __init__(self, encode: Encode, prepare: Callable[[Sequence[str]], None]) -> None:
        self._encode, self._prepare = encode, prepare
        self._known: dict[str, Cond] = {}

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], device: torch.device) -> Cond:
        """Return the conditions of prompts, one row per prompt.

        Each prompt is encoded on its own, so that its bits do not depend on which other prompts are new.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if new:
            self._prepare(new)
        self._known |= {prompt: self._encode([prompt]) for prompt in new}
        found = [self._known[prompt].to(device) for prompt in prompts]
        while len(self._known) > max(1, MEMORY // found[0].bytes):
            del self._known[next(iter(self._known))]
        return Cond.cat(*found)


class Embeddings:
    """Keep conditions in a folder, one file per prompt; `load` brings the text encoders if some are missing."""

    def __init__(self, folder: Path, load: Callable[[], Encode]) -> None:
        self.folder, self._load = folder, load

    def __call__(self, prompts: list[str]) -> Cond:
        """Return the conditions of prompts, one row per prompt."""
        self.prepare(prompts)
        found = [load_tensors(self._file(prompt)) for prompt in prompts]
        return Cond.cat(*(Cond(tensors["embeds"], tensors.get("pooled")) for tensors in found))

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode the prompts that have no file, each on its own, and free the encoders afterwards.

        The ranks of a run share the folder, so each rank begins at another prompt and skips what others have written.
        """
        missing = [prompt for prompt in dict.fromkeys(prompts) if not self._file(prompt).is_file()]
        if not missing:
            return
        encode = self._load()
        first = len(missing) * ranks.here().rank // ranks.here().world
        for prompt in missing[first:] + missing[:first]:
            if not self._file(prompt).is_file():
                self._write(prompt, encode([prompt]))

    def _write(self, prompt: str, cond: Cond) -> None:
        tensors = {"embeds": cond.embeds} | ({} if cond.pooled is None else {"pooled": cond.pooled})
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._file(prompt)) as unfinished:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, unfinished)

    def _file(self, prompt: str) -> Path:
        return self.folder / f"{hashlib.sha256(prompt.encode()).hexdigest()[:32]}.safetensors"


def encoders_hash(folder: Path, *settings: object) -> str:
    """Return a hash of everything an embedding depends on: text encoder and tokenizer files, and the settings.

    `folder` is a model's folder. A folder from the hub is named by its commit.
    """
    files = sorted(file for part in ("text_encoder*", "tokenizer*") for file in folder.glob(f"{part}/*"))
    known = [(file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((folder.resolve().as_posix(), known, settings)).encode()).hexdigest()[:16]
