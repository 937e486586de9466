"""Which steps of a rollout are stochastic, which of them an update learns from, and how much each of them counts.

A window of consecutive stochastic steps among ODE steps is drawn for every rollout (Flow-GRPO-Fast, Liu et al.
2505.05470) or moves from the first steps to the last and begins again (MixGRPO, Li et al. 2507.21802). It never shrinks
at the end, as it does in MixGRPO's code. The last step of a rollout may be left out: its density is so peaked that its
ratios would drown those of the others.

`step_weight` multiplies a step's advantage:
    none   1
    noise  std_i / mean_j std_j over the trained steps, TempFlow-GRPO's noise weighting (He et al. 2508.04324, Eq. 8)
    guard  1 / dt_i, dt_i being how much the step lowers the noise level: GRPO-Guard's, for ratio=guard
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from rdt.methods.base import named
from rdt.policy import Policy
from rdt.randomness import generator
from rdt.rollout import Sampling


@dataclass(frozen=True)
class Noisy:
    """Hold how noisy the steps of a sampler are."""

    stds: list[float]  # (T,) standard deviations of the transitions
    spans: list[float]  # (T,) by how much each lowers the noise level

    @staticmethod
    def of(policy: Policy, sampling: Sampling) -> "Noisy":
        """Measure the steps of a policy's sampler."""
        x, times = torch.zeros(1, *policy.latent_shape), policy.process.times(sampling.num_steps)
        steps = (
            policy.process.transition(x, x, t, t_next, eta)
            for (t, t_next), eta in zip(pairwise(times), sampling.etas, strict=True)
        )
        levels = policy.process.level(times).tolist()
        return Noisy([step.std.item() for step in steps], [now - after for now, after in pairwise(levels)])


def stochastic_steps(stds: list[float], eta: object, min_std: float, last_step: bool) -> list[int]:
    """Return the steps with more noise than `min_std`, without the last one if not `last_step`; ValueError if none."""
    found = [i for i, std in enumerate(stds) if std > min_std and (last_step or i + 1 < len(stds))]
    if not found:
        left = "" if last_step else ", method.last_step=false"
        raise ValueError(
            f"model.sampling.eta={eta}{left} and method.min_std={min_std} leave no stochastic step to learn from"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class StepChoice:
    """Choose the stochastic steps of each rollout, and which of them each update learns from."""

    sampling: Sampling  # of training rollouts
    noisy: Noisy  # the steps of that sampler
    stochastic: list[int]  # the steps with more noise than method.min_std
    seed: int
    updates_per_rollout: int
    window: int | None  # how many consecutive stochastic steps a rollout has among ODE steps; None: all
    window_within: float  # the share of the stochastic steps, from the first one on, that the window lies in
    window_moves: str = "random"
    window_iterations: int = 25  # before a progressive window advances by a step
    fraction: float  # of a rollout's stochastic steps, drawn for every update
    weight: str = "none"  # of the steps' advantages

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"method.step_fraction={self.fraction} must be above 0 and at most 1")
        if self.window is not None and not 1 <= self.window <= self._within:
            limit = f"the {self._within} stochastic steps that method.window_within={self.window_within} leaves it"
            raise ValueError(f"method.window={self.window} must be from 1 to {limit}")
        named("method.window_moves", self.window_moves, MOVES)
        named("method.step_weight", self.weight, STEP_WEIGHTS)
        if self.window_iterations < 1:
            raise ValueError(f"method.window_iterations={self.window_iterations} must be at least 1")

    def rollout_sampling(self, iteration: int) -> Sampling:
        """Return the sampler of the rollout that this iteration learns from: outside its window, eta is 0."""
        if self.window is None:
            return self.sampling
        rollout = iteration - iteration % self.updates_per_rollout
        start = MOVES[self.window_moves](self, rollout, self._within - self.window + 1)
        inside = self.stochastic[start : start + self.window]
        return replace(self.sampling, eta=[eta if i in inside else 0.0 for i, eta in enumerate(self.sampling.etas)])

    def candidates(self, iteration: int) -> list[int]:
        """Return the stochastic steps of the rollout that this iteration learns from."""
        etas = self.rollout_sampling(iteration).etas
        return [i for i in self.stochastic if etas[i]]

    def trained(self, iteration: int) -> list[int]:
        """Return the steps that this iteration's update learns from: a fraction of the candidates, at least one."""
        steps = self.candidates(iteration)
        drawn = torch.randperm(len(steps), generator=generator(self.seed, "steps", iteration))
        return sorted(steps[k] for k in drawn[: max(round(self.fraction * len(steps)), 1)].tolist())

    def weights(self, iteration: int) -> dict[int, float]:
        """Return what the advantages of this iteration's trained steps are multiplied by, by step."""
        return STEP_WEIGHTS[self.weight](self.noisy, self.trained(iteration))

    @property
    def _within(self) -> int:
        return round(self.window_within * len(self.stochastic))


def random_start(choice: StepChoice, rollout: int, starts: int) -> int:
    """Return where the window of a rollout begins, drawn uniformly from `starts` places."""
    return int(torch.randint(starts, (), generator=generator(choice.seed, "window", rollout)))


def progressive_start(choice: StepChoice, rollout: int, starts: int) -> int:
    """Return where the window of a rollout begins: a step later every `window_iterations`, and the first step again."""
    return rollout // choice.window_iterations % starts


def noise_weights(noisy: Noisy, steps: list[int]) -> dict[int, float]:
    """Return std_i / mean_j std_j over the steps."""
    mean = sum(noisy.stds[i] for i in steps) / len(steps)
    return {i: noisy.stds[i] / mean for i in steps}


MOVES: dict[str, Callable[[StepChoice, int, int], int]] = {"random": random_start, "progressive": progressive_start}
STEP_WEIGHTS: dict[str, Callable[[Noisy, list[int]], dict[int, float]]] = {
    "none": lambda noisy, steps: dict.fromkeys(steps, 1.0),
    "noise": noise_weights,
    "guard": lambda noisy, steps: {i: 1 / noisy.spans[i] for i in steps},
}
