"""The bootstrap surrogate: an ensemble whose disagreement is its uncertainty.

Departures from SEIKO's code, which SQDF's uses: mean + beta std over members in place of the largest of four (whose
expectation is beta = 1.03 where members are normal, and whose gradient is that of one member), a nonlinearity (theirs
are affine, with dropout), and a fixed number of steps with weight decay in place of a validation set.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rdt.rewards.surrogate import Estimate, Features, Surrogate

TINY = 1e-12  # keeps the gradient of a square root finite where members agree


@dataclass(frozen=True)
class Descent:
    """How the members of an ensemble are fitted: AdamW."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float


class Bootstrap(Surrogate):
    """Networks of one hidden layer, as one batch of matrices; members differ in their resample and initialisation."""

    hidden: Tensor  # (members, D, width)
    hidden_bias: Tensor  # (members, 1, width)
    output: Tensor  # (members, width, 1)
    output_bias: Tensor  # (members, 1, 1)

    def __init__(self, *, features: Features, beta: float, members: int, width: int, descent: Descent) -> None:
        super().__init__(features=features, beta=beta)
        self.members, self.width, self.descent = members, width, descent

    def _fit(self, phi: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        weights = {name: value.to(phi).requires_grad_() for name, value in self._start(phi.shape[1], generator).items()}
        resample = torch.randint(len(y), (self.members, len(y)), generator=generator)
        how = self.descent
        optimizer = torch.optim.AdamW(weights.values(), lr=how.lr, weight_decay=how.weight_decay)
        for _ in range(how.steps):
            rows = resample[:, torch.randint(len(y), (how.batch_size,), generator=generator)].to(phi.device)
            loss = (_ensemble(phi[rows], **weights) - y[rows]).square().mean(1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {name: value.detach() for name, value in weights.items()}

    def _start(self, inputs: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Normal weights whose variance is one over the layer's inputs."""
        hidden = torch.randn(self.members, inputs, self.width, generator=generator) / inputs**0.5
        output = torch.randn(self.members, self.width, 1, generator=generator) / self.width**0.5
        biases = {
            "hidden_bias": torch.zeros(self.members, 1, self.width),
            "output_bias": torch.zeros(self.members, 1, 1),
        }
        return {"hidden": hidden, "output": output} | biases

    def _estimate(self, phi: Tensor) -> Estimate:
        found = _ensemble(phi, self.hidden, self.hidden_bias, self.output, self.output_bias)
        return found.mean(0), (found.var(0, correction=0) + TINY).sqrt()


def _ensemble(phi: Tensor, hidden: Tensor, hidden_bias: Tensor, output: Tensor, output_bias: Tensor) -> Tensor:
    """(B, D), or (members, B, D) of each member's own rows -> (members, B)."""
    return (F.silu(phi @ hidden + hidden_bias) @ output + output_bias).squeeze(-1)
