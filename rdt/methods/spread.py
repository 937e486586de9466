"""How the samples of an iteration spread over devices, and on one over micro-batches: neither changes what they are."""

from collections.abc import Iterator
from dataclasses import replace

import lightning as L
import torch
from torch import Tensor

from rdt.policy import Policy
from rdt.prompts import Batch
from rdt.rollout import Noise


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
