"""What every method shares: the sampler, the optimiser step, counting, and checkpoints that hold adapters only."""

import time
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from rdt import guidance
from rdt.errors import Diverged as Diverged
from rdt.methods.loss import Descent
from rdt.methods.loss import Loss as Loss
from rdt.methods.spread import Spread
from rdt.policy import Denoiser, Policy
from rdt.prompts import Batch
from rdt.rewards.base import Reward
from rdt.rollout import Sampling, Trajectory, rollout

Choice = TypeVar("Choice")


class Method(Spread):
    """One `training_step` is one iteration; subclasses write it and call `update` with the losses."""

    needs_gradient = False  # of the reward with respect to the image
    urgent = False  # whether what this iteration made is saved at its end, in a checkpoint beyond the regular ones

    def __init__(
        self, *, policy: Policy, reward: Reward, sampling: Sampling, batch_size: int, micro_batch_size: int | None,
        seed: int, lr: float, weight_decay: float, max_grad_norm: float, adam_eps: float,
    ) -> None:  # fmt: skip
        super().__init__(policy, seed, micro_batch_size)
        if self.needs_gradient and not reward.differentiable:
            raise ValueError(
                f"{type(self).__name__} climbs the reward's gradient, and {reward} has none; take a"
                " differentiable reward such as hps, or a policy-gradient method: ddpo, grpo, drift"
            )
        if reward.grouped and self.images_per_prompt < 2:
            raise ValueError(
                f"reward.normalise=group compares the images of a prompt, and {type(self).__name__} makes one of each;"
                " take raw or zscore, or a method of groups: grpo, drift"
            )
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold the adapter, not the frozen network
        self.reward, self.sampling, self.batch_size = reward.requires_grad_(False).eval(), sampling, batch_size
        self.lr, self.weight_decay, self.max_grad_norm, self.adam_eps = lr, weight_decay, max_grad_norm, adam_eps
        self.iteration = 0  # the one that runs, or runs next
        self.images = 0
        self.ended = ""  # what ended training before its last iteration
        self.began = time.time()  # less what a run spent before it was continued
        self.times = policy.process.times(sampling.num_steps)

    @property
    def prompts_per_iteration(self) -> int:
        """How many prompts, over all ranks, `training_step` wants."""
        return self.batch_size

    def guided(self, view: Denoiser, scale: float | None = None) -> Denoiser:
        """A view of the policy under classifier-free guidance, this run's unless another scale is given."""
        return guidance.cfg(view, self.policy.encode([""]), self.sampling.guidance_scale if scale is None else scale)

    def sample(self, batch: Batch, stop: int | None = None) -> Trajectory:
        """On-policy rollouts of the batch's rows, without gradient; of all steps or the first `stop`."""
        cond, noise = self.policy.encode(self.prompts(batch)), self.noise(batch)
        self.images += len(cond)
        view, s = self.guided(self.policy.tuned), self.sampling
        return rollout(view, self.policy.process, cond, noise, s.num_steps, s.eta, stop)

    def update(self, micro_batches: Iterable[Iterable[Loss]], count: int) -> None:
        """One optimiser step down the mean of the losses over `count` samples of all ranks, and what they saw logged.

        Diverged, the weights left alone, where the loss or its gradient is not finite.
        """
        descent = Descent(self.trained, count)
        for losses in micro_batches:
            descent.add(losses)
        *gradient, told = self.summed([*descent.gradient, torch.stack([descent.loss, *descent.seen.values()])])
        self.check_finite("loss", told[0])
        for weight, slope in zip(self.trained, gradient, strict=True):
            weight.grad = slope
        self.check_finite("gradient norm", torch.nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm))
        self.optimizers().step()
        self.report(**dict(zip(descent.seen, told[1:], strict=True)))

    def check_finite(self, name: str, values: Tensor) -> None:
        """Diverged, with the iteration, where a value is not finite."""
        wrong = values.detach()[~values.isfinite()]
        if len(wrong):
            raise Diverged(f"{name} is {wrong[0].item()} at iteration {self.iteration}")

    @property
    def seconds(self) -> float:
        """What the run took so far, over all its continuations."""
        return time.time() - self.began

    @property
    def trained(self) -> list[Tensor]:
        """The adapter's weights."""
        return [p for p in self.policy.parameters() if p.requires_grad]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.trained, lr=self.lr, weight_decay=self.weight_decay, eps=self.adam_eps)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """A batch is prompts: nothing to move."""
        return batch

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.iteration = batch.iteration

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["progress"] = {"iteration": self.iteration, "images": self.images, "ended": self.ended}
        checkpoint["seconds"] = self.seconds
        checkpoint["passes"] = [self.policy.passes, self.policy.backward_passes]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["progress"]
        self.iteration, self.images, self.ended = progress["iteration"], progress["images"], progress["ended"]
        self.began -= checkpoint["seconds"]
        self.policy.passes, self.policy.backward_passes = checkpoint["passes"]


def named(key: str, value: str, table: dict[str, Choice]) -> Choice:
    """The entry of a table of choices; ValueError that lists them."""
    if value not in table:
        raise ValueError(f"{key}={value} is not one of {', '.join(table)}")
    return table[value]
