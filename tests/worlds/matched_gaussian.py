"""The Gaussian world for methods that noise clean samples: diffusion and flow, with snapshots of the trained shift.

The data are N(MU, SIGMA) and every view's clean estimate is exact but for a shift per time of the grid. An adapter that
is the shift C_t b / alpha, C_t = Cov(x_0 | x_t), is the exact denoiser of the data tilted by exp(b . x / alpha).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rdt.policy import Cond, Denoiser
from rdt.process import Process
from rdt.randomness import Noise
from worlds.gaussian import MU, ROOT, SIGMA, B, Gaussian, scales


class Matched(nn.Module):
    """Stand in for a policy whose adapter is a shift (T, 3) of the clean estimate."""

    latent_shape, width, device = Gaussian.latent_shape, Gaussian.width, torch.device("cpu")

    def __init__(self, process: Process, num_steps: int) -> None:
        super().__init__()
        self.process, self.passes, self.backward_passes = process, 0, 0
        self.grid = process.times(num_steps)[:-1]
        self.shift = nn.Parameter(torch.zeros(num_steps, 3))
        self.kept: dict[str, Tensor] = {}

    @property
    def snapshots(self) -> list[str]:
        return list(self.kept)

    def base(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self._output(x, t, torch.zeros_like(self.shift))

    def tuned(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self._output(x, t, self.shift)

    def view(self, name: str) -> Denoiser:
        return lambda x, t, cond: self._output(x, t, self.kept[name])

    def keep(self, name: str) -> None:
        self.kept[name] = self.shift.detach().clone()

    def blend(self, name: str, decay: float) -> None:
        self.kept[name] = decay * self.kept[name] + (1 - decay) * self.shift.detach()

    def lora(self, name: str) -> dict[str, Tensor]:
        return {"shift": self.kept[name]}

    def noise(self, seed: int, purpose: str, indices: Sequence[int]) -> Noise:
        return Noise(seed=seed, purpose=purpose, indices=indices, shape=self.latent_shape, device=self.device)

    def encode(self, prompts: Sequence[str]) -> Cond:
        return Cond(torch.zeros(len(prompts), 1, 1))

    def decode(self, x0: Tensor) -> Tensor:
        return 0.5 + x0 / self.width

    def _output(self, x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
        self.passes += len(x)
        a, s = scales(self.process, t)
        variances, axes = torch.linalg.eigh(SIGMA)
        along = (x.flatten(1) - a * MU) @ axes * (a * variances / (a**2 * variances + s**2))
        rows = (t.view(-1, 1) == self.grid).long().argmax(1)
        x0 = (MU + along @ axes.T + shift[rows]).view_as(x)
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
