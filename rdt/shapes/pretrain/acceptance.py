"""The acceptance table checks that the bundled models draw what prompts state and are uniform in everything else."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rdt import guidance
from rdt.models import sd3, sd15
from rdt.models.text import Text
from rdt.policy import Adapter, Policy
from rdt.rollout import Sampling, sampled
from rdt.shapes.attributes import CARDINALITIES, FREE, NAMES
from rdt.shapes.grammar import split, stated
from rdt.shapes.oracle import Oracle
from rdt.shapes.pretrain import preference
from rdt.shapes.pretrain.autoencoder import random_images
from rdt.stream import subset

PROMPTS, IMAGES = 24, 64  # held-out prompts, and images of each
STEPS, GUIDANCE = 20, 3.0
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

    def __str__(self) -> str:
        held = self.value >= self.bound if self.at_least else self.value <= self.bound
        sign = ">=" if self.at_least else "<="
        return f"{self.name:<54} {self.value:8.4f}  {sign} {self.bound:<6} {'pass' if held else 'FAIL'}"


def table(folder: Path, prompts: int = PROMPTS, images: int = IMAGES) -> Iterator[Criterion]:
    """Yield every acceptance criterion of the bundle in `folder`."""
    oracle = Oracle.load(folder / "oracle.safetensors")
    chosen = subset(prompts=split("held_out"), count=prompts, seed=0)
    text = Text(folder / "base", sd3.KINDS)
    models = (Model("diffusion", Policy(sd15.parts(folder / "base"), UNUSED), 1.0),
             Model("flow", Policy(sd3.parts(folder / "flow", text, "sde"), UNUSED), 0.7))  # fmt: skip
    for model in models:
        yield from quality(model, oracle, chosen, images)
    yield Criterion("reconstructions read right, all attributes", reconstruction(models[0].policy, oracle), 0.99)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    yield Criterion("bundle, MB", size, 10.0, at_least=False)


def quality(model: Model, oracle: Oracle, prompts: list[str], images: int) -> Iterator[Criterion]:
    """Yield how often stated attributes are right, over all and by attribute, and how uniform the free ones are."""
    modes = torch.stack([oracle.read(guided_images(model, prompt, images, k)) for k, prompt in enumerate(prompts)])
    wanted = stated(prompts)[:, None].expand_as(modes)
    right = modes == wanted
    share = right[wanted != FREE].float().mean().item()
    yield Criterion(f"{model.name}: stated attributes right, held-out prompts", share, 0.97)
    for k in sorted({int(column) for column in (wanted != FREE).nonzero()[:, 2]}):
        is_stated = wanted[..., k] != FREE
        yield Criterion(f"  {NAMES[k]}", right[..., k][is_stated].float().mean().item(), 0.97)
    yield Criterion(f"{model.name}: normalised entropy of free attributes", corrected_entropy(modes, wanted), 0.96)


def print_table(folder: Path, work: Path, seed: int) -> None:
    """Print every criterion, and how well the preference models agree with the annotator."""
    for criterion in table(folder):
        print(criterion, flush=True)
    for name in ("hps", "judge"):
        print(name, preference.annotator_agreement(preference.train(name, work, seed), name), flush=True)


@torch.no_grad()
def guided_images(model: Model, prompt: str, count: int, index: int) -> Tensor:
    """Return images (count, 3, 32, 32) of the guided base for the prompt of this index."""
    policy = model.policy
    noise = policy.noise(0, "acceptance", range(index * count, (index + 1) * count))
    view = guidance.cfg(policy.base, policy.encode([""]), GUIDANCE)
    sampling = Sampling(STEPS, model.eta, GUIDANCE)
    return policy.decode(sampled(policy, view, [prompt] * count, noise, sampling).clean)


def corrected_entropy(modes: Tensor, wanted: Tensor) -> float:
    """Return the Miller-Madow estimate of the mean normalised entropy of modes (P, n, 6) in their free attributes."""
    values = []
    for prompt, states in zip(modes, wanted[:, 0], strict=True):
        for k in (states == FREE).nonzero().flatten().tolist():
            share = torch.bincount(prompt[:, k], minlength=CARDINALITIES[k]) / len(prompt)
            seen = share[share > 0]
            nats = -(seen * seen.log()).sum() + (len(seen) - 1) / (2 * len(prompt))
            values.append(nats / torch.tensor(float(CARDINALITIES[k])).log())
    return torch.stack(values).clamp(max=1).mean().item()


@torch.no_grad()
def reconstruction(policy: Policy, oracle: Oracle, count: int = 1024) -> float:
    """Return the share of attributes that the oracle reads alike in a render and in its reconstruction."""
    images = random_images(count, torch.Generator().manual_seed(1))
    vae = policy.frozen[1]
    restored = torch.cat([vae.decode(vae.encode(2 * x - 1).latent_dist.mean).sample for x in images.split(128)])
    return (oracle.read((restored / 2 + 0.5).clamp(0, 1)) == oracle.read(images)).float().mean().item()
