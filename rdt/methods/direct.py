"""What DRaFT, AlignProp and ReFL share: the reward's own gradient, through sampling steps that carry one."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from rdt.methods.base import Loss, Method
from rdt.policy import Cond
from rdt.process import Transition
from rdt.rollout import Noise, steps
from rdt.stream import Batch


@dataclass(frozen=True)
class Tail:
    """The last K steps of a rollout, with gradient."""

    prompts: list[str]  # (B,)
    cond: Cond
    noise: Noise
    states: tuple[Tensor, ...]  # K + 1 of (B, *latent), x_{T-K} .. x_T; the first has no gradient
    transitions: tuple[Transition, ...]  # K, from each state to the next

    @property
    def clean(self) -> Tensor:
        """(B, *latent), the samples."""
        return self.states[-1]


class Direct(Method):
    """Climbs the reward's gradient, which reaches the weights through the sampler."""

    needs_gradient = True

    def training_step(self, batch: Batch, _: int) -> None:
        self.update(([self.loss(part)] for part in self.parts(batch)), self.samples(batch))

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """Of the rollouts of a micro-batch."""

    def tail(self, batch: Batch, K: int) -> Tail:
        """Rollouts of the batch's rows, the first T - K steps without gradient: T passes, as many as sampling takes."""
        s, policy, prompts = self.sampling, self.policy, self.prompts(batch)
        first = s.num_steps - K
        x, cond, noise = self.sample(batch, stop=first).clean, policy.encode(prompts), self.noise(batch)
        which = range(first, s.num_steps)
        made = steps(self.guided(policy.tuned), policy.process, cond, x, noise, s.num_steps, s.eta, which)
        transitions, states = zip(*made, strict=True)
        return Tail(prompts, cond, noise, (x, *states), transitions)

    def scores(self, x0: Tensor, prompts: list[str]) -> Tensor:
        """Rewards (B,) of clean latents (B, *latent), differentiable."""
        rewards = self.reward(self.policy.decode(x0), prompts)
        self.check_finite("reward", rewards)
        return rewards
