"""The acceptance table checks that the bundled models draw what prompts state and are uniform in everything else.

Both models are sampled as the embedded world samples them: 10 steps without guidance, on held-out prompts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rdt.models import sd3, sd15
from rdt.models.text import Text
from rdt.policy import Adapter, Policy
from rdt.randomness import generator
from rdt.rollout import Sampling, sampled
from rdt.shapes.attributes import ATTRIBUTES, CARDINALITIES, FINISH, FREE, NAMES
from rdt.shapes.distribution import sampled_entropy
from rdt.shapes.grammar import split, stated
from rdt.shapes.oracle import Oracle, Reading
from rdt.shapes.pretrain import preference
from rdt.shapes.pretrain.autoencoder import random_images
from rdt.shapes.pretrain.base import SAMPLED
from rdt.shapes.render import render
from rdt.shapes.world import random_finish, random_modes, random_scene
from rdt.stream import subset

PROMPTS, IMAGES = 96, 64  # held-out prompts, and images of each
UNUSED = Adapter(1, 1, ("to_q",))  # a policy needs an adapter; this one stays untrained


@dataclass(frozen=True)
class Model:
    """Holds a text-to-image model of the bundle and the noise of its sampler."""

    name: str
    policy: Policy
    eta: float


@dataclass(frozen=True)
class Criterion:
    """Compares a measured value with the bound that it has to meet."""

    name: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def held(self) -> bool:
        """Say whether the bound is met."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.name:<62} {self.value:8.4f}  {sign} {self.bound:<6} {'pass' if self.held else 'FAIL'}"


def table(folder: Path, prompts: int = PROMPTS, images: int = IMAGES) -> Iterator[Criterion]:
    """Yield every acceptance criterion of the bundle in `folder`."""
    oracle = Oracle.load(folder / "oracle.safetensors")
    chosen = subset(prompts=split("held_out"), count=prompts, seed=0)
    yield from errors(oracle)
    for model in models(folder):
        yield from criteria(model, oracle, chosen, images)
    share = reconstruction(next(models(folder)).policy, oracle)
    yield Criterion("reconstructions read right, all attributes", share, 0.99)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    yield Criterion("bundle, MB", size, 10.0, at_least=False)


def models(folder: Path) -> Iterator[Model]:
    """Yield the diffusion model and, if it is there, its flow twin."""
    yield Model("diffusion", Policy(sd15.parts(folder / "base"), UNUSED), 1.0)
    if (folder / "flow").is_dir():
        text = Text(folder / "base", sd3.KINDS)
        yield Model("flow", Policy(sd3.parts(folder / "flow", text, "sde"), UNUSED), 0.7)


def criteria(model: Model, oracle: Oracle, prompts: list[str], images: int) -> Iterator[Criterion]:
    """Yield how often stated attributes are right, and how uniform the free ones and the finish are."""
    read = [oracle.read(base_images(model, prompt, images, k)) for k, prompt in enumerate(prompts)]
    modes = torch.stack([part.modes for part in read])
    wanted = stated(prompts)
    for k in sorted({int(column) for column in (wanted != FREE).nonzero()[:, 1]}):
        chosen = wanted[:, k] != FREE
        right = (modes[chosen, :, k] == wanted[chosen, k][:, None]).float().mean().item()
        yield Criterion(f"{model.name}: {NAMES[k]} right where stated, held-out prompts", right, 0.97)
    yield from _marginals(model.name, modes, wanted)
    ratio = sampled_entropy(modes, wanted).mean() / uniform_entropy(wanted, images)
    yield Criterion(f"{model.name}: entropy of free attributes, over a uniform sampler's", ratio.item(), 0.98)
    yield from _finish(model.name, read)


def _marginals(name: str, modes: Tensor, wanted: Tensor) -> Iterator[Criterion]:
    """Yield how far each free attribute's values are from uniform, pooled over prompts, and which is the farthest."""
    for k, count in enumerate(CARDINALITIES):
        pooled = modes[wanted[:, k] == FREE, :, k].flatten()
        share = torch.bincount(pooled, minlength=count) / len(pooled) - 1 / count
        farthest = int(share.abs().argmax())
        value = f"{ATTRIBUTES[NAMES[k]][farthest]} {share[farthest]:+.3f}"
        bound = 0.03 if count == 3 else 0.04
        named = f"{name}: {NAMES[k]}, distance from uniform ({value})"
        yield Criterion(named, share.abs().max().item(), bound, at_least=False)


def _finish(name: str, read: list[Reading]) -> Iterator[Criterion]:
    """Yield how far mean and deviation of each factor of the finish are from those of a uniform one."""
    finish = torch.cat([part.finish for part in read])
    for k, factor in enumerate(FINISH):
        for what, value, target in (("mean", finish[:, k].mean(), 0.5), ("deviation", finish[:, k].std(), 12**-0.5)):
            named = f"{name}: {what} of {factor}, distance from {target:.3f} ({value:.3f})"
            yield Criterion(named, abs(value.item() - target), 0.03, at_least=False)


def print_table(folder: Path, work: Path, seed: int) -> None:
    """Print every criterion, and how well the preference models agree with the annotator."""
    for criterion in table(folder):
        print(criterion, flush=True)
    for name in ("hps", "judge"):
        print(name, preference.annotator_agreement(preference.train(name, work, seed), name), flush=True)


@torch.no_grad()
def base_images(model: Model, prompt: str, count: int, index: int) -> Tensor:
    """Return images (count, 3, 32, 32) of the base for the prompt of this index."""
    policy = model.policy
    noise = policy.noise(0, "acceptance", range(index * count, (index + 1) * count))
    sampling = Sampling(SAMPLED, model.eta, 1.0)
    return policy.decode(sampled(policy, policy.base, [prompt] * count, noise, sampling).clean)


def uniform_entropy(wanted: Tensor, count: int) -> Tensor:
    """Return the entropy that the estimator gives for `count` images of a uniform sampler, for prompts (P, 6)."""
    modes = random_modes(len(wanted) * count, generator("uniform entropy")).view(len(wanted), count, -1)
    return sampled_entropy(torch.where(wanted[:, None] == FREE, modes, wanted[:, None]), wanted).mean()


@torch.no_grad()
def errors(oracle: Oracle, count: int = 2048) -> Iterator[Criterion]:
    """Yield how well the oracle reads new renders: content, finish by its network alone and by the fit, residual."""
    stream = generator("oracle errors")
    modes, finish = random_modes(count, stream), random_finish(count, stream)
    images = render(random_scene(modes, stream, finish))
    read = oracle.read(images)
    yield Criterion("oracle: attributes of renders read right", (read.modes == modes).float().mean().item(), 0.99)
    for name, found in (("network", oracle.finish(oracle(images))), ("fit", read.finish)):
        error = (found - finish).abs().mean().item()
        yield Criterion(f"oracle: mean error of the finish, {name}", error, 0.04, at_least=False)
    yield Criterion("oracle: mean residual of renders", read.residual.mean().item(), 0.01, at_least=False)


@torch.no_grad()
def reconstruction(policy: Policy, oracle: Oracle, count: int = 1024) -> float:
    """Return the share of attributes that the oracle reads alike in a render and in its reconstruction."""
    images = random_images(count, torch.Generator().manual_seed(1))
    vae = policy.frozen[1]
    restored = torch.cat([vae.decode(vae.encode(2 * x - 1).latent_dist.mean).sample for x in images.split(128)])
    return (oracle.read((restored / 2 + 0.5).clamp(0, 1)).modes == oracle.read(images).modes).float().mean().item()
