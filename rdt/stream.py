"""The stream of prompts that training draws from a prompt set, and the subset that an evaluation takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset

from rdt.randomness import generator


@dataclass(frozen=True)
class Batch:
    """Hold the prompts of one iteration, the same on every rank."""

    iteration: int
    prompts: list[str]  # of all ranks
    rows: range | None = None  # the samples of one micro-batch among all of the iteration; None: the rank's whole share


def subset(*, prompts: Sequence[str], count: int, seed: int) -> list[str]:
    """Return a fixed random choice of `count` prompts in their order, or all of them if there are fewer."""
    order = torch.randperm(len(prompts), generator=generator(seed, "subset")).tolist()
    return [prompts[k] for k in sorted(order[:count])]


class PromptStream(IterableDataset):
    """Draw each iteration's prompts from the seed and its number alone, so that a resumed run continues exactly."""

    def __init__(self, prompts: Sequence[str], count: int, iterations: int, seed: int) -> None:
        self.prompts, self.count, self.iterations, self.seed = list(prompts), count, iterations, seed
        self.start = 0

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(iteration) for iteration in range(self.start, self.iterations))

    def batch(self, iteration: int) -> Batch:
        """Return the prompts of one iteration, drawn with replacement."""
        rows = torch.randint(len(self.prompts), (self.count,), generator=generator(self.seed, "prompts", iteration))
        return Batch(iteration, [self.prompts[row] for row in rows.tolist()])


class PromptData(L.LightningDataModule):
    """Feed a `PromptStream` to Lightning and save its position in checkpoints."""

    def __init__(self, stream: PromptStream) -> None:
        super().__init__()
        self.stream = stream

    def train_dataloader(self) -> DataLoader:
        """Return a loader of whole batches, without worker processes or collation."""
        return DataLoader(self.stream, batch_size=None)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.start = state["iteration"]

    def state_dict(self) -> dict[str, Any]:
        done = self.trainer.lightning_module.iteration if self.trainer else self.stream.start
        return {"iteration": done}
