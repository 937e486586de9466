"""What an update descends: the losses of samples, in the mean over all that its micro-batches hold on all devices."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


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
