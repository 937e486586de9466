"""The Gaussian world for methods that noise clean samples: diffusion and flow, with snapshots of the trained shift.

The data are N(MU, SIGMA) and every view's clean estimate is exact but for a shift per time of the grid. An adapter that
is the shift C_t b / alpha, C_t = Cov(x_0 | x_t), is the exact denoiser of the data tilted by exp(b . x / alpha).
"""

import torch
from torch import Tensor

from rdt.policy import Cond, Denoiser
from worlds.gaussian import MU, ROOT, SIGMA, B, Shifted, scales


class Matched(Shifted):
    """Stand in for a policy whose adapter is a shift (T, 3) of the clean estimate."""

    @property
    def snapshots(self) -> list[str]:
        return list(self.kept)

    def base(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self._output(x, t, torch.zeros_like(self.shift))

    def tuned(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self._output(x, t, self.shift)

    def view(self, name: str) -> Denoiser:
        return lambda x, t, cond: self._output(x, t, self.kept[name])

    def blend(self, name: str, decay: float) -> None:
        self.kept[name] = decay * self.kept[name] + (1 - decay) * self.shift.detach()

    def lora(self, name: str) -> dict[str, Tensor]:
        return {"shift": self.kept[name]}

    def _output(self, x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
        self.passes += len(x)
        a, s = scales(self.process, t)
        variances, axes = torch.linalg.eigh(SIGMA)
        along = (x.flatten(1) - a * MU) @ axes * (a * variances / (a**2 * variances + s**2))
        x0 = (MU + along @ axes.T + shift[self.row(t)]).view_as(x)
        column = x.new_ones(len(x), 1, 1, 1)
        return self.process.target(x0, (x - a.view(-1, 1, 1, 1) * x0) / (s.view(-1, 1, 1, 1) * column), t)


def tilt(policy: Matched, alpha: float) -> Tensor:
    """Return the shift (T, 3) of the denoiser of the data tilted by exp(b . x / alpha)."""
    rows = []
    for t in policy.grid:
        a, s = scales(policy.process, t)
        gain = a * SIGMA @ torch.linalg.inv(a**2 * SIGMA + s**2 * torch.eye(3))
        rows.append((SIGMA - a * gain @ SIGMA) @ B / alpha)
    return torch.stack(rows)


def exact_samples(mean: Tensor) -> Tensor:
    """Return six samples (6, 3, 1, 1) whose mean and covariance are exactly `mean` and SIGMA."""
    offsets = 3**0.5 * ROOT.T
    return (mean + torch.cat([offsets, -offsets])).view(6, 3, 1, 1)
