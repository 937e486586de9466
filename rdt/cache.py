"""Clean latents of a view of the policy on disk, and their scores, shared by runs.

`Samples` holds n images for each of P prompts in files of at most `size` images, every file on its own:

    <folder>/<model>/<prompt>-<first>-<last>.safetensors              latents (last - first, *latent)
    <folder>/<model>/<prompt>-<first>-<last>.<reward>.safetensors     scores (last - first, R), R components

<model> is a digest of all that a latent depends on besides its prompt: the network, the sampler, the guidance and the
seed; <prompt> is one of the prompt's conditions. Noise is keyed by prompt and image, and a file is sampled as one
batch, so that its bits depend neither on the number of prompts or images nor on the ranks. A file appears complete or
not at all: what a killed run has finished is found by the next one.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rdt.files import replacing
from rdt.policy import Denoiser, Policy
from rdt.rollout import Sampling, sampled
from rdt.weights import crc32, load_tensors

MEMORY = 2**30  # bytes of latents that are kept in memory
Score = Callable[[Tensor, list[str]], Tensor]  # (images, prompts) -> scores (B, R)


@dataclass(frozen=True)
class Piece:
    """Name the images of one file: those from `first` on, before `last`, of a prompt."""

    prompt: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


class Samples:
    """Hold the latents of n images for each of P prompts, sampled from `denoiser` if their files are not there."""

    def __init__(
        self, folder: Path, policy: Policy, denoiser: Denoiser, sampling: Sampling, *, model: str,
        prompts: Sequence[str], count: int, size: int, seed: int,
    ) -> None:  # fmt: skip
        self.policy, self.denoiser, self.sampling = policy, denoiser, sampling
        self.prompts, self.count, self.size, self.seed = list(prompts), count, size, seed
        self.folder = folder.expanduser() / _short(model, *_settings(policy, sampling, seed))
        self._kept = lru_cache(maxsize=None)(self._read)

    @cached_property
    def pieces(self) -> list[Piece]:
        """Return the images of every file, in the order of prompts and images."""
        edges = [*range(0, self.count, self.size), self.count]
        return [Piece(prompt, first, last) for prompt in self.prompts for first, last in pairwise(edges)]

    def missing(self, reward: str = "") -> list[Piece]:
        """Return the pieces whose latents, or scores under a reward's digest, are not on disk."""
        return [piece for piece in self.pieces if not self.file(piece, reward).is_file()]

    def file(self, piece: Piece, reward: str = "") -> Path:
        """Return the file of a piece's latents, or of its scores under a reward's digest."""
        name = f"{self._names[piece.prompt]}-{piece.first}-{piece.last}"
        scored = f".{_short(reward, piece.prompt)}" if reward else ""  # prompts may differ behind what the model reads
        return self.folder / f"{name}{scored}.safetensors"

    def sample(self, piece: Piece) -> None:
        """Sample the latents of a piece and write them."""
        noise = self.policy.noise(self.seed, f"samples {self._names[piece.prompt]}", range(piece.first, piece.last))
        rollout = sampled(self.policy, self.denoiser, [piece.prompt] * len(piece), noise, self.sampling)
        self._write(self.file(piece), rollout.clean)

    @torch.no_grad()
    def score(self, piece: Piece, reward: str, scores: Score) -> None:
        """Score the images of a piece under a reward's digest and write the scores."""
        images = self.policy.decode(self._kept(piece).to(self.policy.device))
        self._write(self.file(piece, reward), scores(images, [piece.prompt] * len(piece)).float())

    def scores(self, reward: str) -> Tensor:
        """Return the scores under a reward's digest, (P, n, R), on the host."""
        found = [load_tensors(self.file(piece, reward))["values"] for piece in self.pieces]
        return torch.cat(found).unflatten(0, (len(self.prompts), self.count))

    def latents(self, prompts: Sequence[str], images: Sequence[int]) -> Tensor:
        """Return the latents (B, *latent) of one image for each of B prompts, on the host."""
        return torch.stack([self._latent(*one) for one in zip(prompts, images, strict=True)])

    def _latent(self, prompt: str, image: int) -> Tensor:
        first = image - image % self.size
        return self._kept(Piece(prompt, first, min(first + self.size, self.count)))[image - first]

    def _read(self, piece: Piece) -> Tensor:
        """Return the latents of a piece; ValueError, naming the file, if it is damaged."""
        file = self.file(piece)
        found = load_tensors(file).get("values")
        if found is None or found.shape != (len(piece), *self.policy.latent_shape):
            raise ValueError(f"{file} does not hold {len(piece)} latents; remove it, and the next run samples them")
        if self._kept.cache_info().currsize * found.nbytes > MEMORY:
            self._kept.cache_clear()
        return found

    def _write(self, file: Path, values: Tensor) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as unfinished:
            save_file({"values": values.cpu().contiguous()}, unfinished)

    @cached_property
    def _names(self) -> dict[str, str]:
        """The digest of each prompt's conditions, and of the empty prompt's if guidance reads them."""
        empty = [] if self.sampling.guidance_scale == 1 else [_condition(self.policy, "")]
        return {prompt: _short(*empty, _condition(self.policy, prompt)) for prompt in self.prompts}


def module_digest(module: nn.Module, settings: str) -> str:
    """Return a digest of a frozen module: its class, its settings and its weights."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return _short(f"{type(module).__module__}.{type(module).__qualname__}", settings, crc32(tensors))


def _settings(policy: Policy, sampling: Sampling, seed: int) -> list[str]:
    """Return the seed, the guidance, the shape of a latent, and the coefficients of every step of the sampler."""
    times, x = policy.process.times(sampling.num_steps), torch.ones(1, 1)
    numbers: list[float] = []
    for i, (t, t_next) in enumerate(pairwise(times)):
        for output in (x, 0 * x):
            step = policy.process.transition(output, x, t, t_next, sampling.etas[i])
            numbers += [t.item(), step.mean.item(), step.std.item()]
    return [*map(str, (seed, sampling.guidance_scale, tuple(policy.latent_shape), policy.process.prediction, numbers))]


def _condition(policy: Policy, prompt: str) -> str:
    cond = policy.encode([prompt])
    parts = (cond.embeds,) if cond.pooled is None else (cond.embeds, cond.pooled)
    data = b"".join(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() for part in parts)
    return hashlib.sha256(data).hexdigest()


def _short(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:20]
