"""What every method shares: the sampler, the optimiser step, counting, and checkpoints that hold adapters only."""

from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor

from rdt import guidance
from rdt.policy import Denoiser, Policy
from rdt.prompts import Batch
from rdt.rewards.base import Reward
from rdt.rollout import Noise, Sampling, Trajectory, rollout

Choice = TypeVar("Choice")


class Diverged(FloatingPointError):
    """A reward, loss or gradient that is not finite."""


class Method(L.LightningModule):
    """One `training_step` is one iteration; subclasses write it and call `update` with the loss."""

    def __init__(
        self, *, policy: Policy, reward: Reward, sampling: Sampling, batch_size: int, seed: int,
        lr: float, weight_decay: float, max_grad_norm: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold the adapter, not the frozen network
        self.policy, self.reward, self.sampling = policy, reward.requires_grad_(False).eval(), sampling
        self.batch_size, self.seed = batch_size, seed
        self.lr, self.weight_decay, self.max_grad_norm = lr, weight_decay, max_grad_norm
        self.iteration = 0  # the one that runs, or runs next
        self.images = 0
        self.times = policy.process.times(sampling.num_steps)

    @property
    def prompts_per_iteration(self) -> int:
        """How many prompts, over all ranks, `training_step` wants."""
        return self.batch_size

    def guided(self, view: Denoiser) -> Denoiser:
        """A view of the policy under this run's classifier-free guidance."""
        return guidance.cfg(view, self.policy.encode([""]), self.sampling.guidance_scale)

    @torch.no_grad()
    def sample(self, batch: Batch) -> Trajectory:
        """On-policy rollouts of this rank's share of the batch."""
        rows = self.share(len(batch.prompts))
        first = batch.iteration * len(batch.prompts)
        noise = Noise(
            seed=self.seed, purpose="train", indices=[first + row for row in rows],
            shape=self.policy.latent_shape, device=self.device,
        )  # fmt: skip
        self.images += len(rows)
        cond = self.policy.encode(self.prompts(batch))
        return rollout(
            self.guided(self.policy.tuned), self.policy.process, cond, noise, self.sampling.num_steps, self.sampling.eta
        )

    def prompts(self, batch: Batch) -> list[str]:
        """This rank's prompts, those that `sample` rolled out."""
        return [batch.prompts[row] for row in self.share(len(batch.prompts))]

    def share(self, count: int) -> range:
        """The contiguous rows of a global batch of `count` that are this rank's."""
        if count % self.trainer.world_size:
            raise ValueError(f"{count} samples do not divide over {self.trainer.world_size} devices; change batch_size")
        size = count // self.trainer.world_size
        return range(self.global_rank * size, (self.global_rank + 1) * size)

    def update(self, loss: Tensor) -> None:
        """One optimiser step; a loss or gradient that is not finite leaves the weights alone."""
        self.check_finite("loss", loss)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.check_finite("gradient norm", torch.nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm))
        optimizer.step()

    def check_finite(self, name: str, values: Tensor) -> None:
        """Diverged, with the iteration, where a value is not finite."""
        wrong = values.detach()[~values.isfinite()]
        if len(wrong):
            raise Diverged(f"{name} is {wrong[0].item()} at iteration {self.iteration}")

    @property
    def trained(self) -> list[Tensor]:
        """The adapter's weights."""
        return [p for p in self.policy.parameters() if p.requires_grad]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.trained, lr=self.lr, weight_decay=self.weight_decay)

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
        checkpoint["progress"] = {"iteration": self.iteration, "images": self.images, "passes": self.policy.passes}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["progress"]
        self.iteration, self.images, self.policy.passes = progress["iteration"], progress["images"], progress["passes"]


def named(key: str, value: str, table: dict[str, Choice]) -> Choice:
    """The entry of a table of choices; ValueError that lists them."""
    if value not in table:
        raise ValueError(f"{key}={value} is not one of {', '.join(table)}")
    return table[value]
