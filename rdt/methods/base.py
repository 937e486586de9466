"""What every method shares: the sampler, the optimiser step, counting, and checkpoints that hold adapters only."""

import time
from collections.abc import Iterable
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor

from rdt import guidance
from rdt.errors import Diverged as Diverged
from rdt.policy import Denoiser, Policy
from rdt.prompts import Batch
from rdt.rewards.base import Reward
from rdt.rollout import Noise, Sampling, Trajectory, rollout

Choice = TypeVar("Choice")


class Method(L.LightningModule):
    """One `training_step` is one iteration; subclasses write it and call `update` with the loss."""

    needs_gradient = False  # of the reward with respect to the image
    images_per_prompt = 1  # rollouts that `sample` makes of each prompt
    urgent = False  # whether what this iteration made is saved at its end, in a checkpoint beyond the regular ones

    def __init__(
        self, *, policy: Policy, reward: Reward, sampling: Sampling, batch_size: int, seed: int,
        lr: float, weight_decay: float, max_grad_norm: float, adam_eps: float,
    ) -> None:  # fmt: skip
        super().__init__()
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
        self.policy, self.reward, self.sampling = policy, reward.requires_grad_(False).eval(), sampling
        self.batch_size, self.seed = batch_size, seed
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
        """On-policy rollouts of this rank's share of the batch, without gradient; of all steps or the first `stop`."""
        cond, noise = self.policy.encode(self.prompts(batch)), self.noise(batch)
        self.images += len(cond)
        view, s = self.guided(self.policy.tuned), self.sampling
        return rollout(view, self.policy.process, cond, noise, s.num_steps, s.eta, stop)

    def prompts(self, batch: Batch) -> list[str]:
        """This rank's prompts, one per rollout, `images_per_prompt` of each."""
        every = [prompt for prompt in batch.prompts for _ in range(self.images_per_prompt)]
        return [every[row] for row in self.share(len(every))]

    def noise(self, batch: Batch) -> Noise:
        """The noise of this rank's rollouts."""
        count = len(batch.prompts) * self.images_per_prompt
        first = batch.iteration * count
        return Noise(
            seed=self.seed, purpose="train", indices=[first + row for row in self.share(count)],
            shape=self.policy.latent_shape, device=self.device,
        )  # fmt: skip

    def share(self, count: int) -> range:
        """The contiguous rows of a global batch of `count` that are this rank's."""
        if count % self.trainer.world_size:
            raise ValueError(f"{count} samples do not divide over {self.trainer.world_size} devices; change batch_size")
        size = count // self.trainer.world_size
        return range(self.global_rank * size, (self.global_rank + 1) * size)

    def update(self, losses: Tensor | Iterable[Tensor]) -> None:
        """One optimiser step down the sum of the losses; one that is not finite leaves the weights alone."""
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for loss in [losses] if isinstance(losses, Tensor) else losses:  # made one by one: the graph of one is held
            self.check_finite("loss", loss)
            self.manual_backward(loss)
        self.check_finite("gradient norm", torch.nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm))
        optimizer.step()

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

    def report(self, **values: Tensor | float) -> None:
        """Log `train/*`, averaged over ranks."""
        for name, value in values.items():
            self.log(f"train/{name}", value, prog_bar=True, sync_dist=self.trainer.world_size > 1)

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
