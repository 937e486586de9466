"""DRaFT, AlignProp and ReFL ascend the reward's own gradient through the last sampling steps."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from rdt.methods.base import Loss, Method
from rdt.policy import Cond
from rdt.process import Transition
from rdt.randomness import Noise
from rdt.rollout import conditioned, steps
from rdt.stream import Batch


@dataclass(frozen=True)
class Tail:
    """Hold the last K steps of B rollouts, with gradient."""

    prompts: list[str]  # (B,)
    cond: Cond
    noise: Noise
    states: tuple[Tensor, ...]  # K + 1 of (B, *latent), x_{T-K} .. x_T; the first has no gradient
    transitions: tuple[Transition, ...]  # K, from each state to the next

    @property
    def clean(self) -> Tensor:
        """Return the samples x_T, shape (B, *latent)."""
        return self.states[-1]


class Direct(Method):
    """Train by the reward's gradient, which reaches the weights through the sampler; a subclass writes `loss`."""

    needs_gradient = True

    def training_step(self, batch: Batch, _: int) -> None:
        self.update(([self.loss(micro_batch)] for micro_batch in self.micro_batches(batch)), self.samples(batch))

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """Return the losses of a micro-batch."""

    def tail(self, batch: Batch, K: int) -> Tail:
        """Return rollouts of the batch's rows whose last K steps carry gradient, at the T passes of plain sampling."""
        first = self.sampling.num_steps - K
        start, view, process = self.sample(batch, stop=first), self.guided(self.policy.tuned), self.policy.process
        cond = conditioned(self.policy, start.prompts, start.noise)
        last_steps = steps(view, process, cond, start.noise, self.sampling, (first, start.clean))
        transitions, states = zip(*last_steps, strict=True)
        return Tail(start.prompts, cond, start.noise, (start.clean, *states), transitions)

    def scores(self, x0: Tensor, prompts: list[str]) -> Tensor:
        """Return the rewards, shape (B,), of decoded clean latents (B, *latent); differentiable."""
        rewards = self.reward(self.policy.decode(x0), prompts)
        self.check_scores("reward", self.reward, rewards, prompts)
        return rewards
