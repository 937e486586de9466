"""SQDF: soft-Q diffusion fine-tuning (Kang et al., ICLR 2026, arXiv 2512.04559).

SQDF maximises, over states x_i of replayed or on-policy rollouts,
    gamma^(T-1-i) r(decode(x0(x_{i+1}))) - kl_coef KL(tuned || base at x_i) / dims,
where x_{i+1} is reparameterised from the tuned transition at x_i, and x0 is a training-free look-ahead. The gradient
runs reward -> decode -> look-ahead -> x_{i+1} -> tuned.

Departures from the official code: the KL carries its factor 1/2 (their alpha 2.0 is our kl_coef 4.0). The look-ahead
is not run with a doubled batch. Negative rewards are shifted rather than masked (`mask_nonpositive=true` restores the
mask). Gradients are all-reduced.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rdt import buffer
from rdt.methods.base import Loss, Method, named
from rdt.policy import Cond, Denoiser, Policy
from rdt.process import Transition
from rdt.randomness import generator
from rdt.stream import Batch

LookAhead = Callable[[Policy, Denoiser, Tensor, Tensor, Cond], Tensor]  # (policy, guided base, x, t, cond) -> x0


def consistency(policy: Policy, base: Denoiser, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Return x0 (B, *latent) by one step of the frozen consistency adapter, whose guidance is built in: one pass."""
    return policy.process.consistency(policy.consistency(x, t, cond), x, t)


def tweedie(policy: Policy, base: Denoiser, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Return x0 (B, *latent) as the posterior mean under the guided base: two passes."""
    return policy.process.clean(base(x, t, cond), x, t)


def n_step(policy: Policy, base: Denoiser, x: Tensor, t: Tensor, cond: Cond, *, n: int) -> Tensor:
    """Return x0 (B, *latent) by n deterministic steps of the guided base, evenly spaced from t (B,) to the end."""
    end = policy.process.times(1)[-1].to(t)
    grid = [(t + (end - t) * k / n).to(t.dtype) for k in range(n + 1)]
    for now, after in itertools.pairwise(grid):
        now = now.clamp(min=0)
        x = policy.process.transition(base(x, now, cond), x, now, after, 0.0).mean
    return x


class SQDF(Method):
    """Train by the soft Q value of replayed states.

    The paper's innovations are `look_ahead`, `gamma`, `replay` and `replay_ratio`.
    """

    needs_gradient = True

    def __init__(
        self, *, gamma: float, kl_coef: float, kl_min_std: float, look_ahead: str, n_step: int, replay: str,
        omega: float, importance_correction: bool, capacity: int, replay_ratio: int, mask_nonpositive: bool,
        **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(**shared)
        if capacity % self.batch_size or not capacity:
            whole = max(1, capacity // self.batch_size) * self.batch_size
            raise ValueError(
                f"method.capacity={capacity} must be a multiple of batch_size={self.batch_size}; take {whole}"
            )
        self.gamma, self.kl_coef, self.kl_min_std = gamma, kl_coef, kl_min_std
        self.look_ahead = named("method.look_ahead", look_ahead, look_aheads(n_step))
        self.replay = named("method.replay", replay, strategies(gamma, omega))
        self.replay_ratio, self.mask_nonpositive = replay_ratio, mask_nonpositive
        self.capacity, self.importance_correction = capacity, importance_correction
        self.restored: dict[str, Any] | None = None

    def training_step(self, batch: Batch, _: int) -> None:
        if self.iteration % self.replay_ratio == 0 or not len(self.buffer):
            self.collect(batch)  # a whole batch every few iterations, since small batches leave the device idle
        self.log_train(reward=self.buffer.latest.mean())
        state = self.buffer.sample(self.batch_size, self.replay, generator(self.seed, "replay", self.iteration))
        micro_batches = self.share.micro_batches(self.batch_size)
        self.update(([self.loss(state, rows)] for rows in micro_batches), self.batch_size)

    def collect(self, batch: Batch) -> None:
        """Roll out the tuned policy, score its images, and store both."""
        latents, scored = zip(*map(self.scored, self.micro_batches(batch)), strict=True)
        scores = self.all_gather(torch.cat(scored)).flatten()
        self.check_scores("reward", self.reward, scores, batch.prompts)
        self.buffer.add(torch.cat(latents), scores, batch.prompts)

    @torch.no_grad()
    def scored(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the states (B, T + 1, *latent) of on-policy rollouts and the rewards (B,) of their images."""
        rollout = self.sample(batch)
        return rollout.trajectory.latents, self.reward(self.policy.decode(rollout.clean), rollout.prompts)

    def loss(self, state: buffer.State, rows: range) -> Loss:
        """Return the negative objective of a micro-batch of the sampled states."""
        state = state[rows.start : rows.stop]
        cond, i = self.policy.encode(state.prompts), state.i.to(self.device)
        t, t_next = self.times[torch.stack([state.i, state.i + 1])].to(self.device, non_blocking=True)
        base = self.guided(self.kl_view)
        tuned_step = self.step(self.guided(self.policy.tuned), state.x, t, t_next, cond)
        with torch.no_grad():
            base_step = self.step(base, state.x, t, t_next, cond)
        x_next = tuned_step.sample(self.update_noise(rows))
        is_last = (i + 1 == self.sampling.num_steps).view(-1, *[1] * (x_next.ndim - 1))
        x0 = torch.where(is_last, x_next, self.look_ahead(self.policy, base, x_next, t_next.clamp(min=0), cond))
        q = self.reward(self.policy.decode(x0), state.prompts)
        discount = self.gamma ** (self.sampling.num_steps - 1 - i)
        kl = tuned_step.kl(base_step, self.kl_min_std)
        objective = discount * q - self.kl_coef * kl / x_next[0].numel()
        weight = state.weights.to(self.device) * ((q > 0) if self.mask_nonpositive else 1)
        return Loss(-weight * objective, {"q": q, "kl_nats": kl * self.sampling.num_steps})

    def step(self, view: Denoiser, x: Tensor, t: Tensor, t_next: Tensor, cond: Cond) -> Transition:
        """Return a view's sampler step at per-sample times (B,); eta is the same at every step."""
        return self.policy.process.transition(view(x, t, cond), x, t, t_next, self.sampling.etas[0])

    def update_noise(self, rows: range) -> Tensor:
        """Return this iteration's reparameterisation noise, (B, *latent), keyed by the global sample."""
        return self.policy.noise(self.seed, f"update{self.iteration}", rows).initial()

    def empty_buffer(self) -> buffer.ReplayBuffer:
        """Return a buffer for this rank's share of the trajectories."""
        return buffer.ReplayBuffer(
            capacity=self.capacity, num_steps=self.sampling.num_steps, rank=self.share.rank, world=self.share.world,
            corrected=self.importance_correction,
        )  # fmt: skip

    def on_fit_start(self) -> None:
        self.buffer = self.empty_buffer()
        if self.restored is not None:
            self.buffer.load_state_dict(self.restored)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["buffer"] = self.buffer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.restored = checkpoint["buffer"]


def look_aheads(n: int) -> dict[str, LookAhead]:
    """Return the look-aheads by name, `n_step` with n steps."""
    return {"consistency": consistency, "tweedie": tweedie, "n_step": partial(n_step, n=n)}


def strategies(gamma: float, omega: float) -> dict[str, buffer.Strategy]:
    """Return the replay strategies by name."""
    prioritized = partial(buffer.prioritized, gamma=gamma, omega=omega)
    return {"prioritized": prioritized, "uniform": buffer.uniform, "on_policy": buffer.on_policy}
