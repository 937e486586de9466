"""What every method shares: its share of the samples, the optimiser step, counting, and checkpoints of the adapter.

A method's samples are split across ranks and micro-batches, and its loss is a mean over all of them. The split never
changes a sample: noise is keyed by the sample's index, and gradients are summed micro-batch by micro-batch.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor

from rdt import guidance
from rdt.errors import Diverged
from rdt.policy import INIT, Denoiser, Policy
from rdt.randomness import Noise
from rdt.rewards.base import Reward
from rdt.rewards.missing import Scored
from rdt.rollout import Rollout, Sampling, sampled
from rdt.stream import Batch, PromptStream


@dataclass(frozen=True)
class Share:
    """Split an iteration's samples across ranks and micro-batches."""

    rank: int
    world: int
    micro_batch_size: int | None  # samples that go through the networks at once; None: the rank's whole share

    def rows(self, count: int) -> range:
        """Return the contiguous rows of `count` that belong to this rank; ValueError if the ranks' shares differ."""
        if count % self.world:
            raise ValueError(f"{count} samples do not divide over {self.world} devices; change batch_size")
        size = count // self.world
        return range(self.rank * size, (self.rank + 1) * size)

    def micro_batches(self, count: int) -> list[range]:
        """Return this rank's rows of `count`, cut into micro-batches."""
        rows = self.rows(count)
        size = self.micro_batch_size or len(rows)
        return [rows[k : k + size] for k in range(0, len(rows), size)]


@dataclass(frozen=True)
class Loss:
    """Hold per-sample losses; those of the same samples at several sampler steps are summed."""

    losses: Tensor  # (B,)
    metrics: dict[str, Tensor]  # (B,) each, logged in the same mean; every rank must give the same names, also if B = 0


class Accumulator:
    """Sum the gradient of a mean loss over `count` samples, and the means of its metrics, over this rank's samples.

    Each micro-batch is summed on its own and then added: two on one rank, or one on each of two, give the same bits.
    """

    def __init__(self, trained: list[Tensor], count: int) -> None:
        self.trained, self.count = trained, count
        self.gradient = self._zeros()
        self.loss = self.gradient[0].new_zeros(())
        self.metrics: dict[str, Tensor] = {}

    def add(self, losses: Iterable[Loss]) -> None:
        """Add the losses of one micro-batch, computed one by one so that only one graph is in memory."""
        micro_batch = self._zeros()
        for loss in losses:
            self.loss += self._mean(loss.losses)
            for name, values in loss.metrics.items():
                self.metrics[name] = self.metrics.get(name, 0) + self._mean(values)
            if len(loss.losses):
                mean = loss.losses.sum() / self.count
                _add(micro_batch, torch.autograd.grad(mean, self.trained, materialize_grads=True))
        _add(self.gradient, micro_batch)

    def _mean(self, values: Tensor) -> Tensor:
        return values.detach().sum().to(self.loss) / self.count

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(weight) for weight in self.trained]


def _add(total: list[Tensor], more: Iterable[Tensor]) -> None:
    for tensor, other in zip(total, more, strict=True):
        tensor += other


class Method(L.LightningModule):
    """Train the policy: one `training_step` is one iteration, which a subclass writes and ends with `update`."""

    needs_gradient = False  # whether it needs the reward's gradient with respect to the image
    folder: Path | None = None  # where the run keeps its files; None if the method trains without a run
    urgent = False  # whether this iteration's results are saved when it ends, in a checkpoint beyond the regular ones
    share: Share  # set once Lightning knows the rank

    def __init__(
        self, *, policy: Policy, reward: Reward, sampling: Sampling, batch_size: int, micro_batch_size: int | None,
        seed: int, lr: float, weight_decay: float, max_grad_norm: float, adam_eps: float, images_per_prompt: int = 1,
        kl_reference: str = "base",
    ) -> None:  # fmt: skip
        super().__init__()
        self.check_reward(reward, images_per_prompt)
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold the adapter, not the frozen network
        self.policy, self.reward, self.sampling = policy, reward.requires_grad_(False).eval(), sampling
        self.seed, self.batch_size, self.micro_batch_size = seed, batch_size, micro_batch_size
        self.images_per_prompt = images_per_prompt
        self.lr, self.weight_decay, self.max_grad_norm, self.adam_eps = lr, weight_decay, max_grad_norm, adam_eps
        self.refers_to_start = named("method.kl_reference", kl_reference, {"base": False, "init": True})
        self.iteration = 0  # the one that runs, or the next one
        self.images = 0  # sampled for training so far on this rank
        self.ended = ""  # why training ended before its last iteration
        self.began = time.time()  # moved back by the seconds of earlier runs that this one continues
        self.times = policy.process.times(sampling.num_steps)

    def check_reward(self, reward: Reward, images_per_prompt: int) -> None:
        """Raise ValueError if this method cannot train on `reward`."""
        if self.needs_gradient and not reward.differentiable:
            raise ValueError(
                f"{type(self).__name__} climbs the reward's gradient, and {reward} has none; take a"
                " differentiable reward such as hps, or a method that needs none: tilt, ddpo, grpo, drift"
            )
        if reward.grouped and images_per_prompt < 2:
            raise ValueError(
                f"reward.normalise=group compares the images of a prompt, and {type(self).__name__} makes one of each;"
                " take raw or zscore, or a method of groups: grpo, drift"
            )

    def setup(self, stage: str) -> None:
        self.share = Share(self.global_rank, self.trainer.world_size, self.micro_batch_size)

    @property
    def prompts_per_iteration(self) -> int:
        """Return how many prompts `training_step` takes, over all ranks."""
        return self.batch_size

    def training_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return those of the training prompts that the method trains on."""
        return list(prompts)

    def conditioned_on(self, stream: PromptStream) -> list[str]:
        """Return the prompts that training conditions on: those of all iterations."""
        return [prompt for iteration in range(stream.iterations) for prompt in stream.batch(iteration).prompts]

    def rows(self, batch: Batch) -> range:
        """Return the sample rows of this batch: its micro-batch if it has one, otherwise this rank's share."""
        return self.share.rows(self.samples(batch)) if batch.rows is None else batch.rows

    def samples(self, batch: Batch) -> int:
        """Return how many samples the iteration of this batch has, over all ranks."""
        return len(batch.prompts) * self.images_per_prompt

    def micro_batches(self, batch: Batch) -> Iterator[Batch]:
        """Yield this rank's share of a batch, one micro-batch at a time."""
        return (replace(batch, rows=rows) for rows in self.share.micro_batches(self.samples(batch)))

    def prompts(self, batch: Batch) -> list[str]:
        """Return the prompts of the batch's rows, one per sample, `images_per_prompt` samples of each."""
        return [batch.prompts[row // self.images_per_prompt] for row in self.rows(batch)]

    def noise(self, batch: Batch) -> Noise:
        """Return the noise of the batch's rows, one per sample."""
        first = batch.iteration * self.samples(batch)
        return self.policy.noise(self.seed, "train", [first + row for row in self.rows(batch)])

    def guided(self, view: Denoiser, scale: float | None = None) -> Denoiser:
        """Return a view of the policy under classifier-free guidance, at the run's scale unless one is given."""
        return guidance.cfg(view, self.policy.encode([""]), self.sampling.guidance_scale if scale is None else scale)

    @property
    def kl_view(self) -> Denoiser:
        """Return the view that a KL is to: the base, or the LoRA that training started from."""
        return self.policy.view(INIT) if self.refers_to_start else self.policy.base

    def sample(self, batch: Batch, stop: int | None = None) -> Rollout:
        """Return on-policy rollouts of the batch's rows, without gradient; `stop` ends them after so many steps."""
        tuned = self.guided(self.policy.tuned)
        return self.counted_rollout(tuned, self.prompts(batch), self.noise(batch), self.sampling, stop)

    def counted_rollout(
        self, view: Denoiser, prompts: list[str], noise: Noise, sampling: Sampling, stop: int | None = None
    ) -> Rollout:
        """Return rollouts of a view of the policy, one per prompt, and count their images as training's."""
        self.images += len(prompts)
        return sampled(self.policy, view, prompts, noise, sampling, stop)

    def update(self, micro_batches: Iterable[Iterable[Loss]], count: int) -> None:
        """Take one optimiser step down the mean loss over `count` samples of all ranks, and log its metrics.

        Raise Diverged, before any weight changes, if the loss or its gradient is not finite.
        """
        total = Accumulator(self.trained, count)
        for losses in micro_batches:
            total.add(losses)
        *gradient, means = self.summed([*total.gradient, torch.stack([total.loss, *total.metrics.values()])])
        self.check_finite("loss", means[0])
        for weight, slope in zip(self.trained, gradient, strict=True):
            weight.grad = slope
        self.check_finite("gradient norm", torch.nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm))
        self.optimizers().step()
        self.log_train(**dict(zip(total.metrics, means[1:], strict=True)))

    def summed(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return each tensor summed over all ranks, in one all-reduce."""
        if self.share.world == 1:
            return tensors
        flat = self.trainer.strategy.reduce(torch.cat([x.flatten() for x in tensors]), reduce_op="sum")
        return [part.view_as(x) for part, x in zip(flat.split([x.numel() for x in tensors]), tensors, strict=True)]

    def log_train(self, **values: Tensor | float) -> None:
        """Log values that are the same on every rank as `train/*`; per-sample values belong in `Loss.metrics`."""
        self.log_dict({f"train/{name}": value for name, value in values.items()}, prog_bar=True)

    def check_finite(self, name: str, values: Tensor) -> None:
        """Raise Diverged, naming the iteration, unless all values are finite."""
        wrong = values.detach()[~values.isfinite()]
        if len(wrong):
            raise Diverged(f"{name} is {wrong[0].item()} at iteration {self.iteration}")

    def check_scores(self, name: str, reward: Reward, scores: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return which images (N,) lack a score, and log their number if the reward skips them.

        Raise Diverged, naming iteration, prompt and image, if a score (N,) or (N, R) may not be skipped.
        """
        wrong, absent = scores.detach()[~scores.isfinite()], torch.zeros(len(scores), dtype=torch.bool)
        if len(wrong):
            when = f"{name} is {wrong[0].item()} at iteration {self.iteration}: "
            absent = Scored(reward.title, reward.missing, scores, prompts).check_present(when)
        if reward.missing == "skip":
            self.log_train(missing=float(absent.sum()))
        return absent

    @property
    def seconds(self) -> float:
        """Return the seconds spent so far, including those of earlier runs that this one continues."""
        return time.time() - self.began

    @property
    def trained(self) -> list[Tensor]:
        """Return the adapter's weights."""
        return [p for p in self.policy.parameters() if p.requires_grad]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.trained, lr=self.lr, weight_decay=self.weight_decay, eps=self.adam_eps)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Return the batch as it is, since it holds only prompts."""
        return batch

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.iteration = batch.iteration

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["progress"] = {"iteration": self.iteration, "images": self.images, "ended": self.ended}
        checkpoint["seconds"] = self.seconds
        checkpoint["passes"] = [self.policy.passes, self.policy.backward_passes]
        checkpoint["snapshots"] = {name: self.policy.lora(name) for name in self.policy.snapshots}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["progress"]
        self.iteration, self.images, self.ended = progress["iteration"], progress["images"], progress["ended"]
        self.began -= checkpoint["seconds"]
        self.policy.passes, self.policy.backward_passes = checkpoint["passes"]
        for name, weights in checkpoint["snapshots"].items():
            self.policy.load_lora(weights, name)


Choice = TypeVar("Choice")


def named(key: str, value: str, choices: dict[str, Choice]) -> Choice:
    """Return the choice that `value` names; ValueError, which lists all names, if there is none."""
    if value not in choices:
        raise ValueError(f"{key}={value} is not one of {', '.join(choices)}")
    return choices[value]
