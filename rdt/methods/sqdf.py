"""SQDF: soft-Q diffusion fine-tuning (Kang et al., ICLR 2026, arXiv 2512.04559).

Maximises, over states x_i of replayed or on-policy rollouts,
    gamma^(T-1-i) r(decode(x0(x_{i+1}))) - kl_coef KL(tuned || base at x_i) / dims
where x_{i+1} is reparameterised from the tuned transition at x_i and x0 is a training-free look-ahead: the gradient
runs reward -> decode -> look-ahead -> x_{i+1} -> tuned. Departures from the official code: the KL carries its factor
1/2 (their alpha 2.0 is our kl_coef 4.0), the look-ahead is not run with a doubled batch, negative rewards are shifted
rather than masked (`mask_nonpositive=true` restores the mask), and gradients are all-reduced.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rdt import buffer as strategies
from rdt.buffer import ReplayBuffer, State
from rdt.methods.base import Loss, Method, named
from rdt.policy import Cond, Denoiser
from rdt.process import Transition
from rdt.randomness import generator
from rdt.rollout import Noise
from rdt.stream import Batch


class SQDF(Method):
    """Soft-Q diffusion fine-tuning; the paper's innovations: `look_ahead`, `gamma`, `replay`, `replay_ratio`."""

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
        self.look_ahead = named("method.look_ahead", look_ahead, LOOK_AHEADS)
        self.n_step, self.replay_ratio, self.mask_nonpositive = n_step, replay_ratio, mask_nonpositive
        replays: dict[str, strategies.Sampling] = {
            "prioritized": partial(strategies.prioritized, gamma=gamma, omega=omega),
            "uniform": strategies.uniform,
            "on_policy": strategies.on_policy,
        }  # fmt: skip
        self.replay = named("method.replay", replay, replays)
        self.buffer_options: dict[str, Any] = {
            "capacity": capacity, "num_steps": self.sampling.num_steps, "corrected": importance_correction
        }  # fmt: skip
        self.restored: dict[str, Any] | None = None

    def on_fit_start(self) -> None:
        self.buffer = self.empty_buffer()
        if self.restored is not None:
            self.buffer.load_state_dict(self.restored)

    def empty_buffer(self) -> ReplayBuffer:
        """A buffer for this rank's share of the trajectories."""
        return ReplayBuffer(rank=self.global_rank, world=self.trainer.world_size, **self.buffer_options)

    def training_step(self, batch: Batch, _: int) -> None:
        if self.iteration % self.replay_ratio == 0 or not len(self.buffer):  # a whole batch at once: small ones idle
            self.collect(batch)
        self.report(reward=self.buffer.latest.mean())
        state = self.buffer.sample(self.batch_size, self.replay, generator(self.seed, "replay", self.iteration))
        self.update(([self.loss(state, rows)] for rows in self.micro_batches(self.batch_size)), self.batch_size)

    def collect(self, batch: Batch) -> None:
        """Roll out the tuned policy, score the images, store both."""
        trajectories, scored = zip(*map(self.scored, self.parts(batch)), strict=True)
        scores = self.all_gather(torch.cat(scored)).flatten()
        self.check_finite("reward", scores)
        self.buffer.add(torch.cat(trajectories), scores, batch.prompts)

    @torch.no_grad()
    def scored(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The states (B, T + 1, *latent) of on-policy rollouts and the rewards (B,) of their images."""
        trajectory = self.sample(batch)
        return trajectory.latents, self.reward(self.policy.decode(trajectory.clean), self.prompts(batch))

    def loss(self, state: State, rows: range) -> Loss:
        """Negative objective of a micro-batch of the sampled states (B, *latent)."""
        state = state[rows.start : rows.stop]
        cond, i = self.policy.encode(state.prompts), state.i.to(self.device)
        t, t_next = self.times[torch.stack([state.i, state.i + 1])].to(self.device, non_blocking=True)
        tuned = self.transition(self.policy.tuned, state.x, t, t_next, cond)
        with torch.no_grad():
            base = self.transition(self.policy.base, state.x, t, t_next, cond)
        x_next = tuned.sample(self.update_noise(rows))
        is_last = (i + 1 == self.sampling.num_steps).view(-1, *[1] * (x_next.ndim - 1))
        x0 = torch.where(is_last, x_next, self.look_ahead(self, x_next, t_next.clamp(min=0), cond))
        q = self.reward(self.policy.decode(x0), state.prompts)
        discount = self.gamma ** (self.sampling.num_steps - 1 - i)
        kl = tuned.kl(base, self.kl_min_std)
        objective = discount * q - self.kl_coef * kl / x_next[0].numel()
        weight = state.weights.to(self.device) * ((q > 0) if self.mask_nonpositive else 1)
        return Loss(-weight * objective, {"q": q, "kl_nats": kl * self.sampling.num_steps})

    def transition(self, view: Denoiser, x: Tensor, t: Tensor, t_next: Tensor, cond: Cond) -> Transition:
        """The guided sampler step of a view at per-sample times (B,)."""
        return self.policy.process.transition(self.guided(view)(x, t, cond), x, t, t_next, self.sampling.eta)

    def update_noise(self, rows: range) -> Tensor:
        """Reparameterisation noise of this iteration's update, (B, *latent), keyed by the global sample."""
        return Noise(
            seed=self.seed, purpose=f"update{self.iteration}", indices=rows,
            shape=self.policy.latent_shape, device=self.device,
        ).initial()  # fmt: skip

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["buffer"] = self.buffer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.restored = checkpoint["buffer"]


def consistency(method: SQDF, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """One step of the frozen consistency adapter, whose guidance is folded in: one pass."""
    process, view = method.policy.process, method.policy.consistency
    return process.consistency(view(x, t, cond), x, t)


def tweedie(method: SQDF, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The posterior mean under the guided base: two passes."""
    return method.policy.process.clean(method.guided(method.policy.base)(x, t, cond), x, t)


def n_step(method: SQDF, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """`n_step` deterministic steps of the guided base, evenly from t (B,) to the clean end."""
    process, base = method.policy.process, method.guided(method.policy.base)
    end = method.times[-1].to(t)
    grid = [(t + (end - t) * k / method.n_step).to(t.dtype) for k in range(method.n_step + 1)]
    for now, after in itertools.pairwise(grid):
        x = process.transition(base(x, now.clamp(min=0), cond), x, now.clamp(min=0), after, 0.0).mean
    return x


LookAhead = Callable[[SQDF, Tensor, Tensor, Cond], Tensor]  # (method, x, t, cond) -> x0 (B, *latent)
LOOK_AHEADS: dict[str, LookAhead] = {"consistency": consistency, "tweedie": tweedie, "n_step": n_step}
