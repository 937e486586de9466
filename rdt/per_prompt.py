"""A table of numbers per prompt that all ranks fill in together."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric


class PerPrompt(Metric):
    """Named values of single prompts, gathered over ranks; compute() -> {name: (P,)} in prompt order."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, index: int, values: Mapping[str, float]) -> None:
        self.names = self.names or tuple(values)
        self.rows.append(torch.tensor([[index, *(values[name] for name in self.names)]], dtype=torch.float64))

    def compute(self) -> dict[str, Tensor]:
        table = torch.cat(self.rows) if isinstance(self.rows, list) else self.rows
        table = table[table[:, 0].argsort()]
        return {name: table[:, column + 1] for column, name in enumerate(self.names)}
