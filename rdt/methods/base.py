"""What every method shares: the sampler, the optimiser step, counting, and checkpoints that hold adapters only.

How the samples of an iteration spread over devices, and on one over micro-batches: neither changes what they are.

What an update descends: the losses of samples, in the mean over all that its micro-batches hold on all devices.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor

from rdt import guidance
from rdt.errors import Diverged
from rdt.policy import Denoiser, Policy
from rdt.rewards.base import Reward
from rdt.rollout import Noise, Sampling, Trajectory, rollout
from rdt.stream import Batch


class Spread(L.LightningModule):
    """A module that makes `images_per_prompt` samples of every prompt of a batch, each rank its rows of them."""

    images_per_prompt = 1  # rollouts that are made of each prompt

    def __init__(self, policy: Policy, seed: int, micro_batch_size: int | None) -> None:
        super().__init__()
        self.policy, self.seed, self.micro_batch_size = policy, seed, micro_batch_size

    def prompts(self, batch: Batch) -> list[str]:
        """The prompts of the batch's rows, one per rollout, `images_per_prompt` of each."""
        return [batch.prompts[row // self.images_per_prompt] for row in self.rows(batch)]

    def noise(self, batch: Batch) -> Noise:
        """The noise of the rollouts of the batch's rows."""
        first = batch.iteration * self.samples(batch)
        return Noise(
            seed=self.seed, purpose="train", indices=[first + row for row in self.rows(batch)],
            shape=self.policy.latent_shape, device=self.device,
        )  # fmt: skip

    def samples(self, batch: Batch) -> int:
        """How many rollouts a batch has, over all ranks."""
        return len(batch.prompts) * self.images_per_prompt

    def rows(self, batch: Batch) -> range:
        """Which of them are meant: a micro-batch, or this rank's share."""
        return self.share(self.samples(batch)) if batch.rows is None else batch.rows

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """This rank's share of a batch, a micro-batch at a time."""
        return (replace(batch, rows=rows) for rows in self.micro_batches(self.samples(batch)))

    def micro_batches(self, count: int) -> list[range]:
        """This rank's rows of `count`, as many at a time as go through the networks at once."""
        mine = self.share(count)
        size = self.micro_batch_size or len(mine)
        return [mine[k : k + size] for k in range(0, len(mine), size)]

    def share(self, count: int) -> range:
        """The contiguous rows of a global batch of `count` that are this rank's."""
        if count % self.trainer.world_size:
            raise ValueError(f"{count} samples do not divide over {self.trainer.world_size} devices; change batch_size")
        size = count // self.trainer.world_size
        return range(self.global_rank * size, (self.global_rank + 1) * size)

    def report(self, **values: Tensor | float) -> None:
        """Log `train/*` of what is the same on every rank; what is a sample's own goes through `Loss.seen`."""
        self.log_dict({f"train/{name}": value for name, value in values.items()}, prog_bar=True)

    def summed(self, tensors: list[Tensor]) -> list[Tensor]:
        """Each over all ranks, in one exchange."""
        if self.trainer.world_size == 1:
            return tensors
        flat = self.trainer.strategy.reduce(torch.cat([x.flatten() for x in tensors]), reduce_op="sum")
        return [part.view_as(x) for part, x in zip(flat.split([x.numel() for x in tensors]), tensors, strict=True)]


@dataclass(frozen=True)
class Loss:
    """Of B samples; where there are several of the same samples, one per sampler step, they add up."""

    losses: Tensor  # (B,)
    seen: dict[str, Tensor]  # (B,) each, logged in the same mean; the same names on every device, B = 0 or not


class Descent:
    """The gradient of the mean loss over `count` samples, and the means that were seen with it, on this device.

    A micro-batch is summed by itself, then added: two on one device, or one on each of two, give the same bits.
    """

    def __init__(self, trained: list[Tensor], count: int) -> None:
        self.trained, self.count = trained, count
        self.gradient = self._zeros()
        self.loss = self.gradient[0].new_zeros(())
        self.seen: dict[str, Tensor] = {}

    def add(self, losses: Iterable[Loss]) -> None:
        """A micro-batch; its losses are made one by one, so that the graph of one is held."""
        own = self._zeros()
        for loss in losses:
            self.loss += self._mean(loss.losses)
            for name, values in loss.seen.items():
                self.seen[name] = self.seen.get(name, 0) + self._mean(values)
            if len(loss.losses):
                mean = loss.losses.sum() / self.count
                _add(own, torch.autograd.grad(mean, self.trained, materialize_grads=True))
        _add(self.gradient, own)

    def _mean(self, values: Tensor) -> Tensor:
        return values.detach().sum().to(self.loss) / self.count

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(weight) for weight in self.trained]


def _add(total: list[Tensor], more: Iterable[Tensor]) -> None:
    for tensor, other in zip(total, more, strict=True):
        tensor += other


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
