"""Evaluation with paired noise: what a policy scores, how diverse it is, how far it went from the base.

What an evaluation notes of one denoiser, prompt by prompt, each rank its share.

What all ranks fill in together, prompt by prompt: a table of numbers, the features of all images.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from rdt.fidelity import Overall
from rdt.policy import Denoiser, Policy
from rdt.rewards.base import Reward
from rdt.rollout import Noise, Samples, Sampling, noisy, sampled


class PerPrompt(Metric):
    """Named values of single prompts, gathered over ranks; compute() -> {name: (P,)} in prompt order."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, index: int, values: Mapping[str, float]) -> None:
        self.names = self.names or tuple(values)
        row = [index, *(values[name] for name in self.names)]
        self.rows.append(torch.tensor([row], dtype=torch.float64, device=self.device))  # where ranks can exchange it

    def compute(self) -> dict[str, Tensor]:
        table = torch.cat(self.rows) if isinstance(self.rows, list) else self.rows
        table = table[table[:, 0].argsort()]
        return {name: table[:, column + 1] for column, name in enumerate(self.names)}


class Features(Metric):
    """Features (n, D) of the images of single prompts, gathered over ranks; compute() -> (P n, D) in prompt order."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("indices", default=[], dist_reduce_fx="cat")
        self.add_state("features", default=[], dist_reduce_fx="cat")

    def update(self, index: int, features: Tensor) -> None:
        self.indices.append(torch.tensor([index], device=self.device))
        self.features.append(features[None].to(self.device))

    def compute(self) -> Tensor:
        indices, features = (torch.cat(s) if isinstance(s, list) else s for s in (self.indices, self.features))
        return features[indices.argsort()].flatten(0, 1)


@dataclass(frozen=True)
class Tally:
    """Numbers, features and a few images; no more of the images is kept."""

    table: PerPrompt
    seen: tuple[Features, ...]  # one per measure of all images
    grid: list[Tensor] = field(default_factory=list)

    @staticmethod
    def empty(overall: int, device: torch.device) -> "Tally":
        """Before the first prompt, with room for the features of so many measures."""
        return Tally(PerPrompt().to(device), tuple(Features().to(device) for _ in range(overall)))

    def note(self, index: int, values: Mapping[str, float], features: list[Tensor]) -> None:
        """One prompt's values, and per measure the features (n, D) of its images."""
        self.table.update(index, values)
        for kept, new in zip(self.seen, features, strict=True):
            kept.update(index, new)

    def scores(self) -> dict[str, Tensor]:
        """By name (P,); a collective."""
        return {name: values.view(-1).cpu() for name, values in self.table.compute().items()}  # (1,) comes as ()

    def features(self) -> list[Tensor]:
        """Per measure (P n, D); a collective."""
        return [kept.compute() for kept in self.seen]


def totals(
    overall: Iterable[Overall], tallies: Mapping[str, Tally], bases: Collection[str]
) -> dict[str, dict[str, float]]:
    """By denoiser, what is measured of all images together, beside the base's where it is another; a collective."""
    seen = {name: tally.features() for name, tally in tallies.items()}
    measured: dict[str, dict[str, float]] = {name: {} for name in seen}
    for k, measure in enumerate(overall):
        for name in seen:
            measured[name] |= measure(seen[name][k], None if name in bases else seen[min(bases)][k])
    return measured


Measure = Callable[[Tensor, str], Mapping[str, float]]  # images (n, 3, H, W) of one prompt -> named numbers

UNASKED = ""  # the base, where its images are needed and its scores are not


@dataclass(frozen=True)
class Protocol:
    """What is sampled: the same for every policy and guidance that is to be compared."""

    prompts: Sequence[str]
    images_per_prompt: int
    kl_images: int  # images per prompt whose KL is measured; 0 for none
    batch_size: int  # images at a time
    seed: int
    grid: tuple[int, int]  # rows (prompts) and columns (seeds) of the sample grid


@dataclass(frozen=True)
class Evaluation:
    """Per-prompt values, in the order of the protocol's prompts, values of all images together, and a few images."""

    scores: dict[str, Tensor]  # "reward/hps", "diversity/vendi", "fidelity/residual", "kl_nats" -> (P,)
    grid: Tensor  # (rows, columns, 3, H, W)
    totals: dict[str, float] = field(default_factory=dict)  # "fidelity/fid", ...

    def summary(self) -> dict[str, float]:
        """Means over prompts, and the totals."""
        return {name: values.mean().item() for name, values in self.scores.items()} | self.totals


class Evaluator(nn.Module):
    """Runs a protocol; its cost is sharded over ranks by prompt."""

    def __init__(
        self,
        protocol: Protocol,
        rewards: Mapping[str, Reward],
        diversity: Sequence[Measure],
        fidelity: Sequence[Measure],
        overall: Sequence[Overall] = (),
    ) -> None:
        super().__init__()
        self.protocol = protocol
        self.rewards, self.overall = nn.ModuleDict(rewards), nn.ModuleList(overall)
        self.diversity, self.fidelity = tuple(diversity), tuple(fidelity)
        self.moving = nn.ModuleList(one for one in (*diversity, *fidelity) if isinstance(one, nn.Module))
        for measure in overall:
            measure.check(len(protocol.prompts) * protocol.images_per_prompt)

    @torch.no_grad()
    def run(
        self, policy: Policy, views: Mapping[str, Denoiser], base: Denoiser, sampling: Sampling, rank: int, world: int
    ) -> dict[str, Evaluation]:
        """Evaluate each denoiser on the same noise, beside `base`, which is sampled too where its images are needed.

        Every rank returns all the scores.
        """
        protocol, wanted = self.protocol, dict(views)
        if len(protocol.prompts) < world:
            raise ValueError(f"prompts={len(protocol.prompts)} is fewer than devices={world}; evaluate on more prompts")
        if self.overall and not any(view is base for view in views.values()):
            wanted[UNASKED] = base
        tallies = {name: Tally.empty(len(self.overall), policy.device) for name in wanted}
        mine, size = _shard(len(protocol.prompts), rank, world), protocol.batch_size // protocol.images_per_prompt
        for first in range(mine.start, mine.stop, max(1, size)):
            chunk = range(first, min(first + max(1, size), mine.stop))
            for name, view in wanted.items():  # inside the chunk: views which share a prefix find it remembered
                self._fill(tallies[name], chunk, policy, (view, base), sampling)
        together = totals(self.overall, tallies, {name for name, view in wanted.items() if view is base})
        return {
            name: Evaluation(tallies[name].scores(), torch.stack(tallies[name].grid), together[name]) for name in views
        }

    def _fill(
        self, tally: Tally, chunk: range, policy: Policy, denoisers: tuple[Denoiser, Denoiser], sampling: Sampling
    ) -> None:
        """Sample and measure one chunk of prompts."""
        samples = self._sample(chunk, policy, denoisers, sampling)
        kl = self._kl(chunk, samples, sampling.eta)
        for index, x0, nats in zip(chunk, samples.x0.unflatten(0, (len(chunk), -1)), kl, strict=True):
            images = policy.decode(x0)
            values = self._measure(images, self.protocol.prompts[index]) | nats | _levels(x0, images)
            tally.note(index, values, [measure.embedder(images) for measure in self.overall])
            if len(tally.grid) < self.protocol.grid[0]:
                tally.grid.append(images[: self.protocol.grid[1]].cpu())

    def _sample(
        self, chunk: range, policy: Policy, denoisers: tuple[Denoiser, Denoiser], sampling: Sampling
    ) -> Samples:
        """The samples of a chunk of prompts; an image's noise does not depend on the chunk."""
        protocol, count = self.protocol, self.protocol.images_per_prompt
        guided, base = denoisers
        every = range(chunk.start * count, chunk.stop * count)
        parts = []
        for first in range(0, len(every), protocol.batch_size):
            rows = every[first : first + protocol.batch_size]
            noise = Noise(
                seed=protocol.seed, purpose="evaluation", indices=rows, shape=policy.latent_shape, device=policy.device
            )
            cond = noisy(policy.encode([protocol.prompts[row // count] for row in rows]), noise)
            apart = sampling.eta != 0 and guided is not base  # without noise there is no KL; the base's is known
            measured = [k for k, row in enumerate(rows) if apart and row % count < protocol.kl_images]
            parts.append(sampled(guided, base, policy.process, cond, noise, sampling, measured))
        return Samples.cat(parts)

    def _measure(self, images: Tensor, prompt: str) -> dict[str, float]:
        """Rewards, diversity and fidelity of the images of one prompt."""
        values = {
            f"reward/{n}": reward(images, [prompt] * len(images)).mean().item() for n, reward in self.rewards.items()
        }
        for kind, measures in (("diversity", self.diversity), ("fidelity", self.fidelity)):
            values |= {
                f"{kind}/{name}": float(v) for measure in measures for name, v in measure(images, prompt).items()
            }
        return values

    def _kl(self, chunk: range, samples: Samples, eta: float) -> list[dict[str, float]]:
        """Per prompt {"kl_nats": mean over its first kl_images paths}; {} where there is no KL to measure."""
        if self.protocol.kl_images == 0 or eta == 0:
            return [{} for _ in chunk]
        if len(samples.kl) == 0:
            return [{"kl_nats": 0.0} for _ in chunk]
        return [{"kl_nats": nats} for nats in samples.kl.unflatten(0, (len(chunk), -1)).mean(1).tolist()]


def _levels(x0: Tensor, images: Tensor) -> dict[str, float]:
    """Where drift shows that no score sees: the size of the latents, the brightness of the images."""
    return {"latent_rms": x0.square().mean().sqrt().item(), "brightness": images.mean().item()}


def _shard(count: int, rank: int, world: int) -> range:
    """The contiguous rows of `count` that are this rank's."""
    return range(rank * count // world, (rank + 1) * count // world)
