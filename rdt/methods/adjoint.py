"""Adjoint Matching (Domingo-Enrich et al., arXiv 2409.08861), and two regressions that differ in their target alone.

Adjoint Matching samples a trajectory x_0 .. x_T of the current policy without gradient, carries the reward's gradient
back along it through the base, and regresses each transition of the policy, at the states of the trajectory, on it:
    g_T = grad r(decode(x_T)),    g_i = (d m_i^base / d x_i)^T g_{i+1},
    loss_i = kl_coef KL(tuned || base at x_i) / dims - (m_i^tuned - m_i^base) . g_{i+1}.
m_i and std_i are mean and standard deviation of the sampler's step from x_i, and the g are constants in the loss. Up to
a constant it is the paper's loss, with lambda = dims / kl_coef and the control u_i = (m_i^tuned - m_i^base) / std_i:
    loss_i = |u_i - lambda std_i g_{i+1}|^2 / (2 lambda).
Only one step's graph is in memory at a time.

`target` chooses g_{i+1}:
    adjoint       the above;
    look_ahead    scale_i grad r(decode(x0_hat(x_{i+1}))) at x_{i+1}, one step's prediction in place of the chain
                  (residual nabla-DB without its flow network, Liu et al., arXiv 2412.07775, with scale_i = a_{i+1}^2);
    clean         grad r(decode(x_T)) at every step.

Law: let P_{i+1} = d x_T / d x_{i+1} of the base's chain. Where the base is linear and the reward is b . x_T, the
optimum is m_i = m_i^base + std_i^2 P_{i+1}^T b / alpha, alpha = kl_coef / dims: it maximises E[r] - alpha KL over
paths, as DRaFT+ with K = T and SQDF do. The mean of the samples moves by (Cov - P_0 P_0^T) b / alpha, Cov being the
sampler's own covariance, which is the tilt exp(r / alpha) of the base's samples as far as x_T forgets x_0. Hence eta
is 1 in training. After the memoryless schedule of the paper (DDIM and posterior at eta 1, Flow-SDE at sqrt 2) every
eta samples the tilt as the steps grow. After Flow-SDE at eta 1 only that sampler does: the chain forgets as well, but
on Gaussian data the ODE misses a third of the tilt, at any number of steps.

Guidance: the paper's code knows three ways. Only rollouts are guided, while g and the regression are conditional
(guided_adjoint=false); nothing is (guidance_scale=1), which is exact; everything is (guided_adjoint=true), which is
exact for the guided base, but g may grow without bound on the way: `train/adjoint_norm` logs its mean norm.

Departures: paper and code pair the step from x_i with g_i, which is right only for infinitely many steps and loses a
third of the tilt at ten; `index=state` does so. Targets may be shortened to std_i |g_{i+1}| <= max_target, in units of
reward, so that no threshold depends on lambda; the paper replaces a large loss by a constant, its code masks samples by
a running quantile. A prompt that is dropped is dropped for g and for the regression alike; in the code only for the
latter. The base keeps its betas and its times, which the code replaces. nabla-DB keeps the output near that of the
rollout's policy: here that is the current one, and the term has no gradient. Its flow network and its reverse loss,
which reaches no weight of the policy, are left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rdt.methods.base import Loss, Method, named
from rdt.methods.sqdf import LookAhead, consistency, tweedie
from rdt.policy import Cond, Denoiser
from rdt.process import Transition
from rdt.randomness import generator
from rdt.rollout import Rollout, Sampling, Trajectory, conditioned
from rdt.stream import Batch

LOOK_AHEADS: dict[str, LookAhead] = {"consistency": consistency, "tweedie": tweedie}


@dataclass(frozen=True)
class Path:
    """Hold B rollouts of the current policy, and the reward's gradient at their ends."""

    trajectory: Trajectory
    prompts: list[str]  # (B,) that the reward reads
    cond: Cond  # of the regression; some of its prompts may be dropped
    rewards: Tensor  # (B,)
    gradient: Tensor  # (B, *latent), g_T


@dataclass(frozen=True)
class Target:
    """Hold what one step of B rollouts is regressed on."""

    i: int
    base: Transition  # from x_i, without gradient
    g: Tensor  # (B, *latent)


@dataclass(frozen=True)
class StepDraw:
    """Draw the steps that an update learns from: some of the early ones, some of the late ones."""

    stochastic: list[int]
    border: int  # the first of the late steps
    early: int | None  # how many of each, or all if there are fewer; None: all
    late: int | None
    seed: int

    def __call__(self, iteration: int) -> dict[int, float]:
        """Return the steps of an iteration in order, each with the number of steps that it stands for."""
        stream = generator(self.seed, "steps", iteration)
        found: dict[int, float] = {}
        for steps, count in zip(self.parts, (self.early, self.late), strict=True):
            size = len(steps) if count is None else min(count, len(steps))
            drawn = torch.randperm(len(steps), generator=stream)[:size].tolist()
            found |= {steps[k]: len(steps) / size for k in drawn}
        return dict(sorted(found.items()))

    @property
    def parts(self) -> tuple[list[int], list[int]]:
        """Return the early and the late steps."""
        early = [i for i in self.stochastic if i < self.border]
        return early, self.stochastic[len(early) :]


class AdjointMatching(Method):
    """Train by regression of the policy's transitions on the reward's gradient, carried to their ends."""

    needs_gradient = True

    def __init__(
        self, *, target: str, kl_coef: float, eta: float | None, num_steps: int | None, guidance_scale: float | None,
        guided_adjoint: bool, prompt_dropout: float, early: int | None, late: int | None, late_share: float,
        index: str, reward_at: str, max_target: float | None, look_ahead: str, look_ahead_view: str,
        look_ahead_scale: str, **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(**shared)
        self.targets = named("method.target", target, self.all_targets)
        self.kl_coef, self.max_target = kl_coef, torch.inf if max_target is None else max_target
        self.rolled_out = self.own_sampling(eta, num_steps, guidance_scale)
        self.num_steps, self.times = self.rolled_out.num_steps, self.policy.process.times(self.rolled_out.num_steps)
        self.scale = self.rolled_out.guidance_scale if guided_adjoint else 1.0  # of targets and the regression
        self.prompt_dropout = prompt_dropout if self.sampling.guidance_scale != 1 else 0.0
        self.steps = self.step_draw(early, late, late_share)
        self.at_state = named("method.index", index, {"next": False, "state": True})
        self.at_mean = named("method.reward_at", reward_at, {"mean": True, "sample": False})
        self.look_ahead = named("method.look_ahead", look_ahead, LOOK_AHEADS)
        self.from_base = named("method.look_ahead_view", look_ahead_view, {"base": True, "tuned": False})
        self.squared = named("method.look_ahead_scale", look_ahead_scale, {"none": False, "squared": True})

    def own_sampling(self, eta: float | None, num_steps: int | None, guidance_scale: float | None) -> Sampling:
        """Return the sampler of training's rollouts: the model's, but for what is not None."""
        return Sampling(
            num_steps=self.sampling.num_steps if num_steps is None else num_steps,
            eta=self.sampling.eta if eta is None else eta,
            guidance_scale=self.sampling.guidance_scale if guidance_scale is None else guidance_scale,
        )

    def step_draw(self, early: int | None, late: int | None, late_share: float) -> StepDraw:
        """Return what draws the steps of an update; ValueError if it would draw none."""
        border = self.num_steps - round(late_share * self.num_steps)
        draw = StepDraw(self.stochastic_steps, border, early, late, self.seed)
        if not draw(0):
            raise ValueError(f"method.early={early} and method.late={late} leave no step to learn from")
        return draw

    @property
    def all_targets(self) -> dict[str, Callable[[Path, dict[int, float]], Iterator[Target]]]:
        """Return, by name, what makes the targets of an update."""
        return {"adjoint": self.adjoints, "look_ahead": self.predictions, "clean": self.gradients}

    @property
    def stochastic_steps(self) -> list[int]:
        """Return the steps of rollouts that draw noise; ValueError if there are none."""
        found = [i for i in range(self.num_steps) if self.std(i) > 0]
        if not found:
            raise ValueError(
                f"the {self.num_steps} sampling steps at eta={self.rolled_out.eta} draw no noise, so that no KL bounds"
                " how far the policy goes; take method.eta=1 and more than one step"
            )
        return found

    def std(self, i: int) -> float:
        """Return the standard deviation of the noise of step i."""
        x, (t, t_next) = torch.zeros(1, *self.policy.latent_shape), self.times[i : i + 2]
        return self.policy.process.transition(x, x, t, t_next, self.rolled_out.etas[i]).std.item()

    def training_step(self, batch: Batch, _: int) -> None:
        steps = self.steps(batch.iteration)
        self.update((self.losses(part, steps) for part in self.micro_batches(batch)), self.samples(batch))

    def losses(self, batch: Batch, steps: dict[int, float]) -> Iterator[Loss]:
        """Yield the losses of a micro-batch at each of the steps, from the last one on."""
        path = self.path(batch)
        for target in self.targets(path, steps):
            yield self.loss(path, target, steps)

    def loss(self, path: Path, target: Target, steps: dict[int, float]) -> Loss:
        """Return the losses at one step; the logged KL is that of the path, by the share of its steps."""
        tuned = self.step(self.acting(self.policy.tuned), path, target.i)
        kl, g = tuned.kl(target.base), self.shortened(target)
        gain = ((tuned.mean - target.base.mean) * g).flatten(1).sum(1)
        means = {"reward": path.rewards / len(steps), "adjoint_norm": target.g.flatten(1).norm(dim=1) / len(steps)}
        return Loss(self.kl_coef * kl / g[0].numel() - gain, means | {"kl_nats": steps[target.i] * kl})

    def shortened(self, target: Target) -> Tensor:
        """Return g (B, *latent), shortened so that std |g| is at most `max_target`."""
        norm = target.base.std * target.g.flatten(1).norm(dim=1).view_as(target.base.std)
        return target.g * torch.where(norm > self.max_target, self.max_target / norm, 1)

    def path(self, batch: Batch) -> Path:
        """Return rollouts of the batch's rows with their rewards and the gradient of these."""
        prompts, noise = self.prompts(batch), self.noise(batch)
        tuned = self.guided(self.policy.tuned, self.rolled_out.guidance_scale)
        rollout = self.counted_rollout(tuned, prompts, noise, self.rolled_out)
        x = self.end(rollout).requires_grad_()
        rewards = self.reward(self.policy.decode(x), prompts)
        self.check_scores("reward", self.reward, rewards, prompts)
        (gradient,) = torch.autograd.grad(rewards.sum(), x)
        cond = conditioned(self.policy, self.after_dropout(batch), noise)
        return Path(rollout.trajectory, prompts, cond, rewards.detach(), gradient)

    def end(self, rollout: Rollout) -> Tensor:
        """Return the latents (B, *latent) at which the reward's gradient is taken: x_T, or the mean of its step."""
        last, x = self.num_steps - 1, rollout.clean
        return x - self.std(last) * rollout.noise.step(last) if self.at_mean and self.std(last) else x.clone()

    def after_dropout(self, batch: Batch) -> list[str]:
        """Return the prompts of the batch's rows, some of them dropped: the same ones in any micro-batch."""
        rows, stream = self.rows(batch), generator(self.seed, "prompt dropout", batch.iteration)
        dropped = torch.rand(self.samples(batch), generator=stream)[rows.start : rows.stop] < self.prompt_dropout
        return ["" if gone else prompt for prompt, gone in zip(self.prompts(batch), dropped.tolist(), strict=True)]

    def adjoints(self, path: Path, steps: dict[int, float]) -> Iterator[Target]:
        """Yield targets whose g is the adjoint, carried back through the base to the first of the steps."""
        base, g, first = self.acting(self.kl_view), path.gradient, min(steps)
        for i in reversed(range(first, self.num_steps)):
            carried = i > first or self.at_state
            x = path.trajectory.latents[:, i].clone().requires_grad_(carried)
            with torch.set_grad_enabled(carried):
                step = self.transition(base, x, i, path.cond)
            before = torch.autograd.grad(step.mean, x, g)[0] if carried else g
            if i in steps:
                yield Target(i, _constant(step), before if self.at_state else g)
            g = before

    def predictions(self, path: Path, steps: dict[int, float]) -> Iterator[Target]:
        """Yield targets whose g is the gradient of the reward of x0_hat(x_{i+1})."""
        for i in reversed(steps):
            yield Target(i, self.base_step(path, i), self.predicted_gradient(path, i + 1))

    def predicted_gradient(self, path: Path, i: int) -> Tensor:
        """Return scale_i grad r(decode(x0_hat(x_i))), (B, *latent)."""
        t, gradient = self.times[i], path.gradient
        if i < self.num_steps:
            x = path.trajectory.latents[:, i].clone().requires_grad_()
            view = self.acting(self.kl_view if self.from_base else self.policy.tuned)
            x0 = self.look_ahead(self.policy, view, x, t, path.cond)
            (gradient,) = torch.autograd.grad(self.reward(self.policy.decode(x0), path.prompts).sum(), x)
        one = torch.ones_like(gradient)
        return gradient * self.policy.process.perturb(one, 0 * one, t) ** 2 if self.squared else gradient

    def gradients(self, path: Path, steps: dict[int, float]) -> Iterator[Target]:
        """Yield targets whose g is the gradient at the end of the path."""
        for i in reversed(steps):
            yield Target(i, self.base_step(path, i), path.gradient)

    def acting(self, view: Denoiser) -> Denoiser:
        """Return a view of the policy as the targets and the regression run it."""
        return self.guided(view, self.scale)

    @torch.no_grad()
    def base_step(self, path: Path, i: int) -> Transition:
        """Return step i of the base."""
        return self.step(self.acting(self.kl_view), path, i)

    def step(self, view: Denoiser, path: Path, i: int) -> Transition:
        """Return step i of a view from the states of a path, with gradient."""
        return self.transition(view, path.trajectory.latents[:, i], i, path.cond)

    def transition(self, view: Denoiser, x: Tensor, i: int, cond: Cond) -> Transition:
        """Return step i of a view from states x (B, *latent)."""
        t, t_next = self.times[i : i + 2]
        return self.policy.process.transition(view(x, t, cond), x, t, t_next, self.rolled_out.etas[i])


def _constant(step: Transition) -> Transition:
    """Return a transition without gradient."""
    return Transition(step.mean.detach(), step.std, step.x0.detach())
