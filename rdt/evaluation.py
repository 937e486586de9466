"""Evaluation on paired noise: what denoisers score, how diverse their images are, how far they are from the base.

Every denoiser is sampled on the same noise, prompt by prompt. The prompts are cut into chunks, and each rank evaluates
its share of the chunks: the batches, and so the values, do not depend on the number of ranks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from typing import Protocol as Interface

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rdt.fidelity import Overall
from rdt.policy import Denoiser, Policy
from rdt.rewards.base import Reward
from rdt.rewards.missing import Scored
from rdt.rollout import Sampling, conditioned, path_kl, sampled
from rdt.sentinels import sentinels

Measure = Callable[[Tensor, str], Mapping[str, float]]  # images (n, 3, H, W) of one prompt -> named numbers


class Kept(Interface):
    """Describes where an evaluation keeps what it measured of each chunk of prompts, to continue from there."""

    def read(self, chunk: range) -> dict[str, Any] | None: ...

    def write(self, chunk: range, found: dict[str, Any]) -> None: ...


REFERENCE = ""  # the base, sampled only because some metric compares against it


@dataclass(frozen=True)
class Protocol:
    """Hold what is sampled, the same for all policies and guidances that are compared."""

    prompts: Sequence[str]
    images_per_prompt: int
    kl_images: int  # images per prompt whose KL is measured; 0 for none
    batch_size: int  # images sampled at a time
    seed: int
    grid: tuple[int, int]  # rows (prompts) and columns (seeds) of the sample grid


@dataclass(frozen=True)
class Evaluation:
    """Hold one denoiser's values per prompt, in the protocol's order, its values over all images, and a few images."""

    scores: dict[str, Tensor]  # "reward/hps", "diversity/vendi", "fidelity/residual", "kl_nats" -> (P,)
    grid: Tensor  # (rows, columns, 3, H, W)
    totals: dict[str, float] = field(default_factory=dict)  # "fidelity/fid", ...

    def summary(self) -> dict[str, float]:
        """Return the means over prompts, and the totals."""
        return {name: values.mean().item() for name, values in self.scores.items()} | self.totals


class Measured:
    """Collect one denoiser's values by prompt, features for the measures of all images, and images for the grid."""

    def __init__(self, overall: int) -> None:
        self.overall = overall  # measures of all images
        self.values: dict[int, dict[str, float]] = {}
        self.features: dict[int, list[Tensor]] = {}  # (n, D) per measure
        self.grid: dict[int, Tensor] = {}  # (columns, 3, H, W)

    def add(self, index: int, values: Mapping[str, float], features: list[Tensor]) -> None:
        """Add one prompt: its values, and per measure the features (n, D) of its images."""
        self.values[index], self.features[index] = dict(values), [found.cpu() for found in features]

    def part(self, chunk: range) -> dict[str, Any]:
        """Return what was measured of a chunk of prompts, by kind."""
        kinds: dict[str, dict[int, Any]] = {"values": self.values, "features": self.features, "grid": self.grid}
        return {kind: {index: found[index] for index in chunk if index in found} for kind, found in kinds.items()}

    def add_part(self, part: Mapping[str, Any]) -> None:
        """Add what was measured of a chunk of prompts before."""
        for kind, found in (("values", self.values), ("features", self.features), ("grid", self.grid)):
            found.update(part[kind])

    def gather(self) -> None:
        """Add what the other ranks have collected. A collective call."""
        if not dist.is_initialized():
            return
        for kind in (self.values, self.features, self.grid):
            parts: list[dict[int, Any]] = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(parts, kind)
            for part in parts:
                kind.update(part)

    def all_features(self, device: torch.device) -> list[Tensor]:
        """Return per measure the features (P n, D) of all images, in prompt order."""
        prompts = sorted(self.features)
        return [torch.cat([self.features[index][k] for index in prompts]).to(device) for k in range(self.overall)]

    def evaluation(self, totals: dict[str, float]) -> Evaluation:
        """Return the evaluation."""
        prompts = sorted(self.values)
        scores = {
            name: torch.tensor([self.values[index][name] for index in prompts], dtype=torch.float64)
            for name in self.values[prompts[0]]
        }
        return Evaluation(scores, torch.stack([self.grid[index] for index in sorted(self.grid)]), totals)


@dataclass(frozen=True)
class PairedSampler:
    """Sample images of a denoiser on the protocol's noise, beside the base."""

    protocol: Protocol
    policy: Policy
    base: Denoiser
    sampling: Sampling

    def samples(self, view: Denoiser, chunk: range) -> tuple[Tensor, Tensor | None]:
        """Return latents (p, n, *latent) of a chunk of p prompts, and the KL (p,) to the base if it is measured.

        An image's noise does not depend on the chunk.
        """
        count, size = self.protocol.images_per_prompt, self.protocol.batch_size
        rows = range(chunk.start * count, chunk.stop * count)
        parts = [self._sampled(view, rows[k : k + size]) for k in range(0, len(rows), size)]
        x0, nats = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        kl = None
        if self.protocol.kl_images and any(self.sampling.etas):  # deterministic steps have no density
            kl = nats.unflatten(0, (len(chunk), -1)).mean(1)
        return x0.unflatten(0, (len(chunk), -1)), kl

    def _sampled(self, view: Denoiser, rows: range) -> tuple[Tensor, Tensor]:
        """Return the latents of some images, and the KL in nats of those whose KL is measured."""
        protocol, policy, etas = self.protocol, self.policy, self.sampling.etas
        prompts = [protocol.prompts[row // protocol.images_per_prompt] for row in rows]
        noise = policy.noise(protocol.seed, "evaluation", rows)
        rollout = sampled(policy, view, prompts, noise, self.sampling)
        measured = [k for k, row in enumerate(rows) if row % protocol.images_per_prompt < protocol.kl_images]
        chosen = torch.tensor(measured, dtype=torch.long, device=rollout.clean.device)
        if view is self.base or not any(etas) or not measured:
            return rollout.clean, rollout.clean.new_zeros(len(chosen))
        if rollout.nats is not None:
            return rollout.clean, rollout.nats.to(chosen.device)[chosen]
        paths, cond = rollout.trajectory[chosen], conditioned(policy, prompts, noise)
        return rollout.clean, path_kl(view, self.base, policy.process, cond[chosen], paths, etas)


class Evaluator(nn.Module):
    """Run a protocol; the cost is split across ranks by prompt."""

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
        self, policy: Policy, views: Mapping[str, Denoiser], base: Denoiser, sampling: Sampling, rank: int, world: int,
        kept: Kept | None = None,
    ) -> dict[str, Evaluation]:  # fmt: skip
        """Evaluate each denoiser on the same noise as `base`, which is sampled too if a metric needs its images.

        Every rank returns all the scores. Chunks of prompts that are `kept` are not sampled again.
        """
        prompts, wanted = len(self.protocol.prompts), dict(views)
        if prompts < world:
            raise ValueError(f"prompts={prompts} is fewer than devices={world}; evaluate on more prompts")
        if self.overall and not any(view is base for view in views.values()):
            wanted[REFERENCE] = base
        measured = {name: Measured(len(self.overall)) for name in wanted}
        sampler, chunks = PairedSampler(self.protocol, policy, base, sampling), self._chunks(range(prompts))
        for chunk in chunks[rank * len(chunks) // world : (rank + 1) * len(chunks) // world]:
            self._measure_all(measured, sampler, wanted, chunk, kept)
        for one in measured.values():
            one.gather()
        totals = self._totals(measured, {name for name, view in wanted.items() if view is base}, policy.device)
        return {name: measured[name].evaluation(totals[name]) for name in views}

    def _chunks(self, prompts: range) -> list[range]:
        """Return the prompts in chunks of as many as one batch of images holds, at least one."""
        size = max(1, self.protocol.batch_size // self.protocol.images_per_prompt)
        return [prompts[k : k + size] for k in range(0, len(prompts), size)]

    def _measure_all(
        self, measured: Mapping[str, Measured], sampler: PairedSampler, views: Mapping[str, Denoiser], chunk: range,
        kept: Kept | None,
    ) -> None:  # fmt: skip
        """Sample and measure one chunk of prompts of every view, or take what was kept of it."""
        before = kept.read(chunk) if kept else None
        for name, view in views.items():  # inside the chunk, so that views with a shared prefix reuse it
            if before and name in before:
                measured[name].add_part(before[name])
            else:
                self._measure(measured[name], sampler, view, chunk)
        if kept:
            kept.write(chunk, {name: measured[name].part(chunk) for name in views})

    def _measure(self, measured: Measured, sampler: PairedSampler, view: Denoiser, chunk: range) -> None:
        """Sample and measure one chunk of prompts."""
        latents, kl = sampler.samples(view, chunk)
        for k, index in enumerate(chunk):
            images = sampler.policy.decode(latents[k])
            values = self._values(images, self.protocol.prompts[index])
            values |= {} if kl is None else {"kl_nats": kl[k].item()}
            measured.add(index, values | _levels(latents[k], images), [m.embedder(images) for m in self.overall])
            if index < self.protocol.grid[0]:
                measured.grid[index] = images[: self.protocol.grid[1]].cpu()

    def _values(self, images: Tensor, prompt: str) -> dict[str, float]:
        """Return the rewards, diversity and fidelity of the images of one prompt."""
        values = self._scores(images, prompt)
        for kind, measures in (("diversity", self.diversity), ("fidelity", self.fidelity)):
            for measure in measures:
                found = {f"{kind}/{name}": float(value) for name, value in measure(images, prompt).items()}
                if twice := sorted(found.keys() & values.keys()):
                    raise ValueError(f"two metrics are named {twice[0]}; give one of them another name")
                values |= found
        return values

    def _scores(self, images: Tensor, prompt: str) -> dict[str, float]:
        """Return the mean of each reward over the images of one prompt that have a score.

        If a reward may skip images, "missing" is the number of scores that were left out.
        """
        values, missing = {}, 0
        for name, reward in self.rewards.items():
            scores = reward(images, [prompt] * len(images))
            absent = Scored(reward.title, reward.missing, scores, [prompt]).check_present("evaluation stops: ")
            values[f"reward/{name}"] = (scores[~absent] if absent.any() else scores).mean().item()
            missing += int(absent.sum())
        if any(reward.missing == "skip" for reward in self.rewards.values()):
            values["missing"] = float(missing)
        return values

    def _totals(
        self, measured: Mapping[str, Measured], bases: set[str], device: torch.device
    ) -> dict[str, dict[str, float]]:
        """Return by denoiser what is measured of all its images together, compared with the base's unless it is one."""
        features = {name: one.all_features(device) for name, one in measured.items()}
        totals: dict[str, dict[str, float]] = {name: {} for name in measured}
        for k, measure in enumerate(self.overall):
            for name in measured:
                totals[name] |= measure(features[name][k], None if name in bases else features[min(bases)][k])
        return totals


def _levels(x0: Tensor, images: Tensor) -> dict[str, float]:
    """Return latent RMS and the sentinels, which reveal drift that no reward or diversity score measures."""
    return {"latent_rms": x0.square().mean().sqrt().item()} | sentinels(images)
