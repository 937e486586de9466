"""The stream of prompts that training draws from a prompt set, and the few that an evaluation takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset

from rdt.randomness import generator


@dataclass(frozen=True)
class Batch:
    """The prompts of one iteration: all of them, the same on every rank."""

    iteration: int
    prompts: list[str]
    rows: range | None = None  # of its samples, those of a micro-batch; None: a rank's share


def subset(*, prompts: Sequence[str], count: int, seed: int) -> list[str]:
    """A fixed random choice of `count` prompts, all of them where there are fewer."""
    order = torch.randperm(len(prompts), generator=generator(seed, "subset")).tolist()
    return [prompts[k] for k in sorted(order[:count])]


class PromptStream(IterableDataset):
    """Iterations of prompts; iteration k depends on the seed and k alone, so a resumed run continues exactly."""

    def __init__(self, prompts: Sequence[str], count: int, iterations: int, seed: int) -> None:
        self.prompts, self.count, self.iterations, self.seed = list(prompts), count, iterations, seed
        self.start = 0

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(iteration) for iteration in range(self.start, self.iterations))

    def batch(self, iteration: int) -> Batch:
        """Prompts of one iteration, drawn with replacement."""
        rows = torch.randint(len(self.prompts), (self.count,), generator=generator(self.seed, "prompts", iteration))
        return Batch(iteration, [self.prompts[row] for row in rows.tolist()])


class PromptData(L.LightningDataModule):
    """Feeds a `PromptStream` to Lightning and remembers how far it came."""

    def __init__(self, stream: PromptStream) -> None:
        super().__init__()
        self.stream = stream

    def train_dataloader(self) -> DataLoader:
        """Batches as they are; no worker processes, no collation."""
        return DataLoader(self.stream, batch_size=None)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.start = state["iteration"]

    def state_dict(self) -> dict[str, Any]:
        done = self.trainer.lightning_module.iteration if self.trainer else self.stream.start
        return {"iteration": done}
