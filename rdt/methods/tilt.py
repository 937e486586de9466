"""Tilt: sample the base once, weigh its images by the reward, and regress the denoiser of the weighted images.

A KL-regularised method seeks p(x | prompt) exp(r(x) / alpha) / Z, p being the base. Tilt fits that law directly. It
keeps n images of the guided base for each of P prompts on disk (rdt/cache.py) and weighs them within their prompt,
    w_j = softmax_j(r_j / alpha),    alpha = u / strength,
where u is the standard deviation of rewards within prompts, pooled over prompts. An update draws images j with
probability q_j = (w_j + 1/n) / 2, times t uniformly from the sampler's, and noise e; it descends
    (w_j - 1/n) / q_j |tuned(x_t) - target|^2 + (1/n) / q_j |tuned(x_t) - base(x_t)|^2,    x_t = a_t x_j + s_t e,
in the mean over dimensions, `target` being what the network is trained to give at x_t (e, for an epsilon).

Law: let w(x_t) and u(x_t) be the densities of the weighted and of the plain images after noising. The minimiser is
    E_w[target | x_t] + (u / w)(x_t) (base(x_t) - E_u[target | x_t]).
Where the base is the denoiser of these images, that is the denoiser of the tilt, exactly. Guidance makes outputs that
are no mean over the images; there the minimiser is the guided base plus the tilt's shift, as long as w and u overlap.
w / q = (w_j - 1/n) / q_j + (1/n) / q_j is never negative, so the problem of each time is convex in the output. At
strength 0, with one image per prompt or with equal rewards, the first term is exactly 0 and tuned stays the base bit
for bit; without the second term (`control=none`, plain weighted regression) it would drift under guidance.

Rounds reach further than the base's images do: round k samples the policy as it was when the round began, weighs by
its share strength / rounds, and takes that policy as base. u stays the first round's.

The parts are known: reward-weighted regression (Peters and Schaal 2007; for text to image Lee et al. 2302.12192, and
RWR in DDPO, 2305.13301) and energy-weighted flow matching (2503.04975). Weights within each of many prompts, the term
towards the base, one set of images for all rewards and strengths, and the front by scaling the one adapter are ours.

Departures from reward-weighted regression: the term towards the base; images drawn by q and weighted by w / q; the
unconditional branch of classifier-free guidance has no gradient. An image without a score keeps the weight 1/n. Every
run is charged the passes of all its images, also of those that an earlier run has left on disk.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdt import guidance
from rdt.cache import Piece, Samples, module_digest
from rdt.methods.base import Loss, Method, named
from rdt.policy import INIT, Denoiser
from rdt.randomness import generator
from rdt.rewards.base import Reward
from rdt.rewards.missing import Scored, stand_ins
from rdt.stream import Batch, PromptStream, subset

ANCHOR = "anchor"  # the snapshot of the policy at the beginning of a round
FOLDER = "rounds"  # of a run's folder: images of the rounds after the first


@dataclass(frozen=True)
class ImageDraws:
    """Hold what the B samples of an update are: an image of a prompt, a time, and the coefficients of the loss."""

    prompts: list[str]  # (B,)
    images: list[int]  # (B,) numbers of the images among those of their prompt
    i: Tensor  # (B,) numbers of the times
    excess: Tensor  # (B,) (w - 1/n) / q
    plain: Tensor  # (B,) (1/n) / q

    def __getitem__(self, rows: slice) -> "ImageDraws":
        return ImageDraws(self.prompts[rows], self.images[rows], self.i[rows], self.excess[rows], self.plain[rows])


@dataclass(frozen=True)
class Round:
    """Hold the images of a round and their weights."""

    number: int
    samples: Samples
    weights: Tensor  # (P, n), each row sums to 1
    metrics: dict[str, float]  # what is logged of them


def weighted(scores: Tensor, rate: float, absent: Tensor) -> Tensor:
    """Return the weights softmax(rate * scores) of each row (P, n), in double precision.

    They are exactly 1/n if the scores are equal, and for images that are `absent` (P, n).
    """
    n = scores.shape[1]
    known = scores.double().masked_fill(absent, -torch.inf)
    equal = ~(known.amax(1) > known.masked_fill(absent, torch.inf).amin(1)) | (rate == 0)
    logits = torch.where(absent, known, rate * known).masked_fill(equal[:, None], 0)
    share = (~absent).double().mean(1, keepdim=True)
    uniform = absent | equal[:, None]
    return (logits.softmax(1) * share).masked_fill(uniform, 1 / n)


def effective(weights: Tensor) -> Tensor:
    """Return the effective sample size 1 / sum_j w_j^2 of each row, (P, n) -> (P,)."""
    return 1 / weights.square().sum(1)


def pooled_spread(scores: Tensor, absent: Tensor) -> float:
    """Return the standard deviation of scores (P, n) within their rows, pooled over rows; 0 if no row has two."""
    known = scores.double().masked_fill(absent, torch.nan)
    freedom = ((~absent).sum(1) - 1).clamp(min=0).sum().item()
    return float(((known - known.nanmean(1, keepdim=True)).square().nansum() / max(freedom, 1)).sqrt())


def regression(draws: ImageDraws, output: Tensor, target: Tensor, base: Tensor) -> Tensor:
    """Return the losses (B,) of outputs (B, *latent): towards the weighted target, and towards the base."""
    fit, near = ((output - other).square().flatten(1).mean(1) for other in (target, base))
    return draws.excess.to(fit) * fit + draws.plain.to(fit) * near


class Tilt(Method):
    """Train by regression on the base's images, weighted by their reward."""

    opened: Round

    def __init__(
        self, *, strength: float, prompts: int, images: int, control: str, rounds: int, updates_per_round: int,
        samples: str, sample_batch_size: int, sample_seed: int, rescore: bool, **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(**shared)
        numbers = {"prompts": prompts, "images": images, "rounds": rounds, "updates_per_round": updates_per_round}
        for key, number in (numbers | {"sample_batch_size": sample_batch_size}).items():
            if number < 1:
                raise ValueError(f"method.{key}={number} must be at least 1")
        if strength < 0:
            raise ValueError(f"method.strength={strength} must be at least 0; reward.scale=-1 minimises a reward")
        self.strength, self.prompt_count, self.image_count = strength, prompts, images
        self.controlled = named("method.control", control, {"base": True, "none": False})
        self.rounds, self.updates_per_round = rounds, updates_per_round
        self.root, self.sample_batch_size, self.sample_seed = Path(samples), sample_batch_size, sample_seed
        self.rescore = rescore
        self.charged = 0  # rounds whose images were counted
        self.spread = 0.0  # u

    def check_reward(self, reward: Reward, images_per_prompt: int) -> None:
        """Raise ValueError if this method cannot train on `reward`; it compares all images of a prompt."""
        super().check_reward(reward, max(images_per_prompt, 2))

    def training_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts that have images: a fixed choice, the same in every run with this sample_seed."""
        return subset(prompts=list(dict.fromkeys(prompts)), count=self.prompt_count, seed=self.sample_seed)

    def conditioned_on(self, stream: PromptStream) -> list[str]:
        """Return all prompts of the stream, since all have images."""
        return stream.prompts

    def training_step(self, batch: Batch, _: int) -> None:
        if self.round != self.opened.number:
            self.opened = self.open(self.round)
        draws = self.draws(batch)
        self.update(([self.loss(draws, rows)] for rows in self.share.micro_batches(self.batch_size)), self.batch_size)
        self.log_train(**self.opened.metrics)

    @property
    def round(self) -> int:
        """Return the number of this iteration's round."""
        return min(self.iteration // self.updates_per_round, self.rounds - 1)

    def draws(self, batch: Batch) -> ImageDraws:
        """Return the images and times of an iteration's samples, the same on every rank."""
        stream, n = generator(self.seed, "tilt", batch.iteration), self.image_count
        row = {prompt: k for k, prompt in enumerate(self.opened.samples.prompts)}
        weights = self.opened.weights[[row[prompt] for prompt in batch.prompts]]
        q = (weights + 1 / n) / 2
        images = torch.multinomial(q, 1, generator=stream)
        w, q = (values.gather(1, images).squeeze(1) for values in (weights, q))
        i = torch.randint(self.sampling.num_steps, (len(q),), generator=stream)
        return ImageDraws(batch.prompts, images.squeeze(1).tolist(), i, (w - 1 / n) / q, 1 / n / q)

    def loss(self, draws: ImageDraws, rows: range) -> Loss:
        """Return the losses of a micro-batch of the update's samples."""
        draws, process = draws[rows.start : rows.stop], self.policy.process
        cond, x0 = self.policy.encode(draws.prompts), self.opened.samples.latents(draws.prompts, draws.images)
        t = self.times[draws.i].to(self.device, non_blocking=True)
        noise = self.policy.noise(self.seed, f"update{self.iteration}", rows).initial()
        x0 = x0.to(noise)
        x, target = process.perturb(x0, noise, t), process.target(x0, noise, t)
        output = self.detached(self.policy.tuned)(x, t, cond).to(x.dtype)
        with torch.no_grad():
            base = self.detached(self.anchor)(x, t, cond).to(x.dtype)
        losses = regression(draws, output, target, base if self.controlled else target)
        return Loss(losses, {"kl_nats": self.kl(draws, x, output.detach(), base)})

    def kl(self, draws: ImageDraws, x: Tensor, output: Tensor, base: Tensor) -> Tensor:
        """Return the path's KL of tuned to the round's base in nats, (B,), by weighted, noised images; 0 if eta is."""
        t, t_next = self.times[torch.stack([draws.i, draws.i + 1])].to(self.device, non_blocking=True)
        ours, theirs = (
            self.policy.process.transition(one, x, t, t_next, self.sampling.etas[0]) for one in (output, base)
        )
        return (draws.excess + draws.plain).to(x) * ours.kl(theirs) * self.sampling.num_steps

    def detached(self, view: Denoiser) -> Denoiser:
        """Return a view under the sampler's guidance, without gradient through the unconditional branch."""
        return guidance.cfg_detached(view, self.policy.encode([""]), self.sampling.guidance_scale)

    @property
    def anchor(self) -> Denoiser:
        """Return the policy that the round's images are of."""
        return self.policy.view(ANCHOR) if self.round else self.kl_view

    def open(self, number: int) -> Round:
        """Return a round with its images, which are sampled and scored unless they are on disk."""
        if number and self.iteration == number * self.updates_per_round:
            self.policy.keep(ANCHOR)
        passes = self.policy.passes
        samples, digest = self.round_samples(number), module_digest(self.reward, self.reward.settings)
        self.announce(samples, digest)
        self.fill(samples, digest)
        self.policy.passes = passes
        if self.charged <= number:
            self.charge()
        return self.weighed(number, samples, samples.scores(digest))

    def round_samples(self, number: int) -> Samples:
        """Return the images of a round, on disk or not: the first round's are shared by runs, others are the run's."""
        folder = self.folder / FOLDER if number and self.folder else self.root
        adapter = ANCHOR if number else INIT if self.refers_to_start else None
        return Samples(
            folder, self.policy, self.guided(self.anchor), self.sampling, model=self.policy.digest(adapter),
            prompts=self.trainer.datamodule.stream.prompts, count=self.image_count, size=self.sample_batch_size,
            seed=self.sample_seed,
        )  # fmt: skip

    def announce(self, samples: Samples, digest: str) -> None:
        """Print on rank 0 how many images there are, and how many must be sampled or scored first."""
        lacking = [sum(map(len, samples.missing(reward))) for reward in ("", digest)]
        if self.global_rank == 0 and any(lacking):
            whole = sum(map(len, samples.pieces))
            print(f"cache    {whole:,} images in {samples.folder}: {lacking[0]:,} to sample, {lacking[1]:,} to score",
                  flush=True)  # fmt: skip

    def fill(self, samples: Samples, digest: str) -> None:
        """Sample and score what is missing on disk; each rank takes its share, and what others could not write here."""
        barrier, rank, world = self.trainer.strategy.barrier, self.share.rank, self.share.world
        for reward in ("", digest):
            missing = samples.pieces if reward and self.rescore else samples.missing(reward)
            barrier()  # so that all ranks have the same list before one of them writes
            for piece in missing[rank::world]:
                self.make(samples, piece, reward)
            barrier()
            for piece in samples.missing(reward):
                self.make(samples, piece, reward)

    def make(self, samples: Samples, piece: Piece, reward: str) -> None:
        """Write the latents of a piece, or its scores under a reward's digest."""
        if reward:
            samples.score(piece, reward, self.scored)
        else:
            samples.sample(piece)

    def scored(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the scores of images, (B, R), one per component; Diverged if one may not be missing."""
        parts = self.reward.parts(images, prompts)
        Scored(self.reward.title, self.reward.missing, parts, prompts).check_finite()
        return parts

    def charge(self) -> None:
        """Count the images of a round and their passes, as if this run had sampled all of them."""
        images = -(-len(self.trainer.datamodule.stream.prompts) * self.image_count // self.share.world)
        self.images += images
        self.policy.passes += images * self.sampling.num_steps * (1 if self.sampling.guidance_scale == 1 else 2)
        self.charged += 1

    def weighed(self, number: int, samples: Samples, parts: Tensor) -> Round:
        """Return a round with the weights of its images, whose scores are `parts` (P, n, R)."""
        Scored(self.reward.title, self.reward.missing, parts.flatten(0, 1), samples.prompts).check_present()
        known, absent = stand_ins(parts)
        scores = self.reward.relative(known).double()
        if not number:
            self.spread = pooled_spread(scores, absent)
        rate = self.strength / self.spread if self.spread else 0.0
        weights = weighted(scores, rate / self.rounds, absent)
        sizes = effective(weights)
        self.warn_of_few(scores, absent, rate, sizes.mean().item())
        metrics = {"ess": sizes.mean().item(), "ess_min": sizes.min().item(), "spread": self.spread}
        rewards = {"reward": (weights * scores).sum(1).mean().item(), "reward_base": scores.mean().item()}
        missing = {"missing": float(absent.sum())} if self.reward.missing == "skip" else {}
        return Round(number, samples, weights, metrics | rewards | missing)

    def warn_of_few(self, scores: Tensor, absent: Tensor, rate: float, size: float) -> None:
        """Warn on rank 0 if the effective sample size is below an eighth of the images, and say what would help."""
        if self.global_rank or size >= self.image_count / 8:
            return
        sizes = ((k, effective(weighted(scores, rate / k, absent)).mean().item()) for k in count(self.rounds + 1))
        rounds, found = next(one for one in sizes if one[1] >= self.image_count / 8)
        print(
            f"warning: method.strength={self.strength} leaves an effective sample size of {size:.3g} of"
            f" {self.image_count} images per prompt; method.rounds={rounds} would leave {found:.3g} in each, and twice"
            " method.images about twice as many", file=sys.stderr,
        )  # fmt: skip

    def on_fit_start(self) -> None:
        self.opened = self.open(self.round)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["tilt"] = {"charged": self.charged, "spread": self.spread}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.charged, self.spread = checkpoint["tilt"]["charged"], checkpoint["tilt"]["spread"]
