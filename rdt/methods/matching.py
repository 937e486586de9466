"""Online forward-process matching: what DiffusionNFT (2509.16117) and AWM (2509.25050) share.

Each rollout makes G images for each of P prompts by the sampler's ODE, and only their clean latents x_0 are kept. An
image's advantage is
    A = (r - mean of its prompt's images) / u,
u being the standard deviation of all rewards of the rollout (method.std=global). An update noises each x_0 to S times
of the rollout's grid (`rdt.methods.forward_process`), and descends a loss of the error q of the trained network there,
of the error q_s of a snapshot of it, and of A, in the mean over images and times. After the updates of a rollout
    snapshot <- d snapshot + (1 - d) tuned,    d = min(decay, ramp max(n - flat, 0)),
n being the number of updates so far. A term kl_coef |tuned - base|^2, in the mean over dimensions, holds tuned to the
base. No step needs noise and no log-probability is stored, so any sampler's images would do.

The optimum is a tilt of the base only if that term has the space and the time weight of the first one
(`kl_space=own`). `kl_space=velocity`, which both official codes have, weighs the times in another way. On Gaussian data
with a linear reward the ODE moves the mean of a flow's images by the tilt's shift exactly, at every number of steps. A
diffusion whose first state still holds alpha_T of the data falls short by less than that share.

Departures: the official samplers are multistep solvers (DPM-Solver, SA-Solver), here each step is one of DDIM or Euler.
The network sees in updates the very times of the rollout; the official code of DiffusionNFT rounds them to integers in
the rollout alone. The images of a row of the batch are a group, so that equal prompts of a rollout are not merged.
Times and noise are drawn for each image, by its number. If method.guidance_scale is not 1, all views run under
classifier-free guidance, whose unconditional branch has no gradient.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rdt import guidance
from rdt.methods.base import Loss, named
from rdt.methods.forward_process import TIME_WEIGHTS, Noised, mean_square
from rdt.methods.grpo import DIVISORS
from rdt.methods.rollouts import RolloutMethod, Rollouts
from rdt.policy import Denoiser
from rdt.process import SPACES
from rdt.randomness import generator
from rdt.rewards.missing import stand_ins, without_absent
from rdt.rollout import Rollout, Sampling, Trajectory
from rdt.stream import Batch


@dataclass(frozen=True)
class Decay:
    """Say how slowly a snapshot follows the trained adapter: d = min(decay, ramp max(n - flat, 0)) after n updates."""

    decay: float
    ramp: float
    flat: int

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1 or self.ramp < 0 or self.flat < 0:
            raise ValueError(f"{self}: decay must be in [0, 1), ramp and flat at least 0")

    def __call__(self, updates: int) -> float:
        return min(self.ramp * max(updates - self.flat, 0), self.decay)


@dataclass(frozen=True)
class Times:
    """Draw the times of a rollout's grid that its images are noised to."""

    count: int  # S, for each image
    first: int  # the grid's first times, of most noise, that are never drawn
    share: float  # of the grid, from its beginning, that times are drawn from
    drawn: str  # subset: any S of them | strata: one of each S-th part of them

    def range(self, num_steps: int) -> range:
        """Return the numbers of the times that may be drawn; ValueError if they are fewer than `count`."""
        found = range(self.first, int(self.share * num_steps))
        if not 1 <= self.count <= len(found):
            raise ValueError(
                f"method.times.count={self.count} must be from 1 to {len(found)}, the times that method.times.first="
                f"{self.first} and method.times.share={self.share} leave of {num_steps} steps"
            )
        return found

    def __call__(self, samples: int, num_steps: int, stream: torch.Generator) -> Tensor:
        """Return the numbers of the times of each sample, (samples, S)."""
        among, uniform = self.range(num_steps), torch.rand(samples, num_steps, generator=stream)
        if named("method.times.drawn", self.drawn, {"subset": True, "strata": False}):
            return among.start + uniform[:, : len(among)].argsort(1)[:, : self.count]
        edges = torch.arange(self.count + 1) * len(among) // self.count
        return among.start + (edges[:-1] + (uniform[:, : self.count] * edges.diff()).long())


@dataclass(frozen=True)
class Errors:
    """Hold what a loss of B images at one time each is made of, in the space of the loss."""

    tuned: Tensor  # (B, *latent), q
    snapshot: Tensor  # (B, *latent), q_s, without gradient
    sigma: Tensor  # (B,), which weighs times
    advantages: Tensor  # (B,)
    apart: Tensor  # (B,), the distance of tuned and the snapshot, as kl_space measures it
    acted: Tensor | None = None  # (B, *latent), that of the policy that made the images; None: it is tuned itself


SIGNALS = {  # what the advantages (P, G) become
    "all": lambda advantages: advantages,
    "positive": lambda advantages: advantages.clamp(min=0),
    "negative": lambda advantages: advantages.clamp(max=0),
    "binary": torch.sign,
}


class Matching(RolloutMethod):
    """Train by regression on noised images of the policy, weighted by their advantages.

    Every `updates_per_rollout` = k updates roll out `batch_size` images; the j-th one learns from images j, j + k, ...
    A subclass names its snapshot and writes `objective` and `time_weight`; it may replace `acting_in_rollouts` and
    `errors`.
    """

    SNAPSHOT: str  # the name of the snapshot that follows the trained adapter

    def __init__(
        self, *, group: int, std: str, signal: str, guidance_scale: float, num_steps: int | None,
        updates_per_rollout: int, times: Times, space: str, kl_coef: float, kl_space: str, decay: Decay, **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(images_per_prompt=group, updates_per_rollout=updates_per_rollout, **shared)
        if group < 2:
            raise ValueError(f"method.group={group} must be at least 2: a group is its own baseline")
        self.divisor, self.signal = named("method.std", std, DIVISORS), named("method.signal", signal, SIGNALS)
        self.decay, self.kl_coef = decay, kl_coef
        self.space = named("method.space", space, {name: name for name in SPACES})
        self.kl_space = named("method.kl_space", kl_space, {"own": None, "velocity": "velocity"})
        self.ode = Sampling(num_steps or self.sampling.num_steps, 0.0, guidance_scale)
        self.grid, self.drawn_times = self.policy.process.times(self.ode.num_steps), times
        times.range(self.ode.num_steps)

    @abstractmethod
    def objective(self, errors: Errors) -> Tensor:
        """Return the losses (B,) without the term to the base."""

    @abstractmethod
    def time_weight(self, sigma: Tensor) -> Tensor:
        """Return the weight of each time, (B,), that distances in the space of the loss have too."""

    @property
    def guidance_scale(self) -> float:
        """Return the scale of classifier-free guidance of rollouts, updates and evaluations of the policy."""
        return self.ode.guidance_scale

    @property
    def acting_in_rollouts(self) -> Denoiser:
        """Return the view that makes the images."""
        return self.policy.tuned

    def acting(self, view: Denoiser) -> Denoiser:
        """Return a view of the policy as rollouts and updates run it."""
        return guidance.cfg_detached(view, self.policy.encode([""]), self.ode.guidance_scale)

    def training_step(self, batch: Batch, _: int) -> None:
        phase = batch.iteration % self.updates_per_rollout
        if phase == 0:
            self.rollouts = self.collect(batch)
        self.log_train(**self.rollouts.metrics())
        chosen = self.rollouts.of_update(phase, self.updates_per_rollout)
        times = self.drawn_times(len(chosen), self.ode.num_steps, generator(self.seed, "times", batch.iteration))
        parts = self.micro_batches(self.rollouts.batch)
        self.update((self.losses(part, chosen, times) for part in parts), int(chosen.sum()))
        if phase == self.updates_per_rollout - 1:
            self.policy.blend(self.SNAPSHOT, self.decay(batch.iteration + 1))

    def collect(self, batch: Batch) -> Rollouts:
        """Roll out the policy, score its images, and keep their clean latents with the advantages of all ranks."""
        view = self.acting(self.acting_in_rollouts)
        rollouts = [
            self.counted_rollout(view, self.prompts(part), self.noise(part), self.ode)
            for part in self.micro_batches(batch)
        ]
        with torch.no_grad():
            images = [self.policy.decode(rollout.clean) for rollout in rollouts]
        known, absent = stand_ins(self.scores(images, batch))  # (P, G, R), (P, G)
        advantages = without_absent(self.advantages(self.reward.relative(known)), absent)
        every = torch.arange(known.shape[1]).expand(known.shape[:2])
        held = torch.ones(known.shape[:2], dtype=torch.bool)
        return Rollouts.of(batch, self.reward.total(known), every, advantages, held, self.clean(rollouts))

    def advantages(self, rewards: Tensor) -> Tensor:
        """Return the advantages (P, G), in double precision, where equal rewards are exactly their mean."""
        rewards = rewards.double()
        return self.signal((rewards - rewards.mean(1, keepdim=True)) / self.divisor(rewards))

    def clean(self, rollouts: list[Rollout]) -> Trajectory:
        """Return the last states of rollouts as trajectories of one state."""
        x0 = torch.cat([rollout.clean for rollout in rollouts])
        return Trajectory(x0[:, None], x0.new_zeros(len(x0), 1), self.grid[-1:])

    def losses(self, batch: Batch, chosen: Tensor, times: Tensor) -> Iterator[Loss]:
        """Yield the losses at each time of the batch's rows that are `chosen` (R,); times (R, S)."""
        rows, first = self.rows(batch), self.share.rows(len(chosen)).start
        own = chosen[rows.start : rows.stop].nonzero().squeeze(1) + rows.start
        prompts = [batch.prompts[row // self.images_per_prompt] for row in own.tolist()]
        for k in range(times.shape[1]):
            yield self.loss(prompts, own, own - first, times[own, k], k) if len(own) else self.logged(torch.zeros(0))

    def loss(self, prompts: list[str], rows: Tensor, held: Tensor, i: Tensor, k: int) -> Loss:
        """Return the losses of rows (B,) of the rollout, `held` by this rank, at times i, the k-th ones of the rows."""
        noise = self.policy.noise(self.seed, f"update{self.iteration} time{k}", rows.tolist()).initial()
        t, t_next = self.grid[torch.stack([i, i + 1])].to(self.device, non_blocking=True)
        x0 = self.rollouts.trajectory[held.to(self.device)].clean
        noised = Noised.of(self.policy.process, x0, noise, t, self.policy.encode(prompts))
        advantages = self.rollouts.advantages[rows, 0].to(self.device)
        return self.matched(noised, advantages, t_next)

    def matched(self, noised: Noised, advantages: Tensor, t_next: Tensor) -> Loss:
        """Return the losses of noised images (B,) whose sampler would step to the times `t_next` (B,)."""
        tuned = noised.output(self.acting(self.policy.tuned))
        errors = self.errors(noised, tuned, advantages)
        losses = self.objective(errors)
        if not self.kl_coef:
            return self.logged(losses, errors)
        with torch.no_grad():
            base = noised.output(self.acting(self.kl_view))
        losses = losses + self.kl_coef * self.distance(noised, tuned, base)
        nats = noised.nats(tuned.detach(), base, t_next, self.sampling.etas[0]) * self.ode.num_steps
        return self.logged(losses, errors, nats)

    def errors(self, noised: Noised, tuned: Tensor, advantages: Tensor) -> Errors:
        """Return the errors that the objective compares, given the output of tuned."""
        return self.compared(noised, tuned, self.output_of(self.SNAPSHOT, noised), advantages)

    def compared(self, noised: Noised, tuned: Tensor, snapshot: Tensor, advantages: Tensor) -> Errors:
        """Return the errors of the outputs of tuned and of the snapshot."""
        own, other = (noised.error(one, self.space) for one in (tuned, snapshot))
        sigma = self.policy.process.sigma(noised.t)
        return Errors(own, other, sigma, advantages, self.distance(noised, tuned, snapshot))

    @torch.no_grad()
    def output_of(self, name: str, noised: Noised) -> Tensor:
        """Return the output of a snapshot of the policy, (B, *latent), without gradient."""
        return noised.output(self.acting(self.policy.view(name)))

    def distance(self, noised: Noised, output: Tensor, other: Tensor) -> Tensor:
        """Return the distance of two outputs (B,) in the space of method.kl_space."""
        if self.kl_space:
            return noised.distance(output, other, self.kl_space)
        return self.time_weight(self.policy.process.sigma(noised.t)) * noised.distance(output, other, self.space)

    def logged(self, losses: Tensor, errors: Errors | None = None, nats: Tensor | None = None) -> Loss:
        """Return the losses with their metrics, as means over times: without errors, those of no samples."""
        moved, nothing = None if errors is None else errors.tuned.detach() - errors.snapshot, losses.new_zeros(0)
        means = {"error": nothing if errors is None else mean_square(errors.tuned.detach())}
        means["moved"] = nothing if moved is None else mean_square(moved)
        if self.kl_coef:
            means["kl_nats"] = nothing if nats is None else nats
        count = self.drawn_times.count
        return Loss(losses / count, {name: values / count for name, values in means.items()})

    def on_fit_start(self) -> None:
        if self.SNAPSHOT not in self.policy.snapshots:
            self.policy.keep(self.SNAPSHOT)
        super().on_fit_start()


def time_weights(key: str, weight: str, others: dict[str, str]) -> Any:
    """Return the weight of times that a weight of a loss has; `others` maps further names to those of TIME_WEIGHTS."""
    return named(key, weight, TIME_WEIGHTS | {name: TIME_WEIGHTS[own] for name, own in others.items()})
