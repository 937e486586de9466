"""What all ranks fill in together, prompt by prompt: a table of numbers, the features of all images."""

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
        row = [index, *(values[name] for name in self.names)]
        self.rows.append(torch.tensor([row], dtype=torch.float64, device=self.device))  # where ranks can exchange it

    def compute(self) -> dict[str, Tensor]:
        table = torch.cat(self.rows) if isinstance(self.rows, list) else self.rows
        table = table[table[:, 0].argsort()]
        return {name: table[:, column + 1] for column, name in enumerate(self.names)}


class Features(Metric):
    """Features (n, D) of the images of single prompts, gathered over ranks; compute() -> (P n, D) in prompt order."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("indices", default=[], dist_reduce_fx="cat")
        self.add_state("features", default=[], dist_reduce_fx="cat")

    def update(self, index: int, features: Tensor) -> None:
        self.indices.append(torch.tensor([index], device=self.device))
        self.features.append(features[None].to(self.device))

    def compute(self) -> Tensor:
        indices, features = (torch.cat(s) if isinstance(s, list) else s for s in (self.indices, self.features))
        return features[indices.argsort()].flatten(0, 1)
