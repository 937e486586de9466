"""The tilted Gaussian: a world whose KL-regularised optimum can be solved by hand.

The data follow N(mu, Sigma), the network's epsilon is exact, the sampler is DDIM with eta = 1, and the reward is
b . x. A method maximises J[tuned] = E[b . x_T] - alpha sum_i KL_i over the sampler's steps i. The soft value is
V(x) = alpha log E_base[exp(b . x_T / alpha) | x] = b . E_base[x_T | x] + constant, because the conditional covariance
does not depend on x. Tweedie's x0_hat is affine with Jacobian J_{i+1} = a Sigma (a^2 Sigma + s^2)^-1, and it is that
conditional mean (a martingale of the DDIM chain at every T, since the chain's mean is linear in x0_hat). So the best
mean of x_{i+1} ~ N(m_i, std_i^2) is
    m_i = m_i^base + std_i^2 J_{i+1}^T b / alpha,
a shift that does not depend on x. The samples then follow base exp(b . x / alpha) / Z = N(mu + Sigma b / alpha, Sigma),
where Sigma is the covariance of the sampler; DDIM's own is too small by O(1 / T).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from rdt.policy import Cond, Denoiser
from rdt.process import TARGETS, Process
from rdt.randomness import Noise
from rdt.rewards.base import Reward
from worlds import tiny_policy

DIMS, ALPHA = 3, 0.4
MU, B = torch.tensor([0.5, -1.0, 0.2]), torch.tensor([1.0, -0.5, 0.3])
ROOT = torch.tensor([[0.6, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.2, 0.7]])
SIGMA = ROOT @ ROOT.T
TILT = SIGMA @ B / ALPHA


class Shifted(nn.Module):
    """Stand in for a policy on latents (3, 1, 1) whose adapter is a shift per sampling step, with its snapshots."""

    latent_shape = (3, 1, 1)
    width = 60.0  # decode maps latents in +-30 to [0, 1], so that a reward linear in the image is linear in the latent
    device = torch.device("cpu")

    def __init__(self, process: Process, num_steps: int) -> None:
        super().__init__()
        self.process, self.passes, self.backward_passes = process, 0, 0
        self.grid = process.times(num_steps)[:-1]
        self.shift = nn.Parameter(torch.zeros(num_steps, 3))
        self.kept: dict[str, Tensor] = {}  # snapshots of the shift

    def keep(self, name: str) -> None:
        """Copy the trained shift into the snapshot `name`."""
        self.kept[name] = self.shift.detach().clone()

    def noise(self, seed: int, purpose: str, indices: Sequence[int]) -> Noise:
        return Noise(seed=seed, purpose=purpose, indices=indices, shape=self.latent_shape, device=self.device)

    def encode(self, prompts: Sequence[str]) -> Cond:
        return Cond(torch.zeros(len(prompts), 1, 1))

    def decode(self, x0: Tensor) -> Tensor:
        return 0.5 + x0 / self.width

    def row(self, t: Tensor) -> Tensor:
        """Return the sampling step of each time, (B,)."""
        return (self.grid == t.view(-1, 1)).long().argmax(1)


class Gaussian(Shifted):
    """Stand in for a policy whose data are N(mean, covariance) in (3, 1, 1), with exact base and consistency views.

    e_hat(x, t) = s (a^2 Sigma + s^2)^-1 (x - a mean) and x0_hat = mean + a Sigma (a^2 Sigma + s^2)^-1 (x - a mean) make
    the output of the process, such as an epsilon or a velocity; tuned adds a trained shift per sampling step to it.
    """

    def __init__(self, *, mean: Tensor, covariance: Tensor, num_steps: int, process: Process) -> None:
        super().__init__(process, num_steps)
        self.mean = mean
        self.variances, self.axes = torch.linalg.eigh(covariance)
        self.base_shift = torch.zeros(3)  # an error of the base that a test may set

    def consistency(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the exact output, (B, 3, 1, 1)."""
        self.passes += len(x)
        a, s = scales(self.process, t)
        along = (x.flatten(1) - a * self.mean) @ self.axes / (a**2 * self.variances + s**2)
        noise = (s * along @ self.axes.T).view_as(x)
        clean = (self.mean + a * self.variances * along @ self.axes.T).view_as(x)
        return TARGETS[self.process.prediction](clean, noise, self.process._at(t, x))

    def base(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.consistency(x, t, cond) + self.base_shift.view(1, 3, 1, 1)

    def tuned(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.consistency(x, t, cond) + self.shift[self.row(t)].view(-1, 3, 1, 1)

    def view(self, name: str) -> Denoiser:
        """Return the view of a snapshot."""
        return lambda x, t, cond: self.consistency(x, t, cond) + self.kept[name][self.row(t)].view(-1, 3, 1, 1)

    def digest(self, name: str | None = None) -> str:
        """Return what distinguishes a base from another."""
        return str((self.mean, self.variances, self.axes, self.base_shift))


class Linear(Reward):
    """Score an image by b . x of the latent x that the Gaussian world decoded."""

    def __init__(self, b: Tensor = B) -> None:
        super().__init__()
        self.register_buffer("b", b)

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        return (images.mean((2, 3)) - 0.5) @ self.b * Gaussian.width


def world(num_steps: int, covariance: Tensor = SIGMA, process: Process | None = None) -> Gaussian:
    """Return the Gaussian world on a grid of `num_steps`."""
    return Gaussian(mean=MU, covariance=covariance, num_steps=num_steps, process=process or tiny_policy.diffusion())


def scales(process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return a_t and s_t, (B, 1) or (1, 1)."""
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    return process.perturb(one, zero, t), process.perturb(zero, one, t)


def optimum(policy: Gaussian, gamma: float = 1.0) -> Tensor:
    """Return the shift of epsilon (T, 3) that gives the best mean, if each step's reward is discounted by gamma."""
    process, num_steps = policy.process, len(policy.shift)
    times, one = process.times(num_steps), torch.ones(1, 3, 1, 1)
    rows = []
    for i in range(num_steps):
        step = [process.transition(e * one, one, times[i], times[i + 1], 1.0) for e in (0, 1)]
        slope = (step[1].mean - step[0].mean)[0, 0, 0, 0]
        a, s = scales(process, times[i + 1])
        last = i == num_steps - 1
        jacobian = torch.eye(3) if last else a * SIGMA @ torch.linalg.inv(a**2 * SIGMA + s**2 * torch.eye(3))
        q = gamma ** (num_steps - 1 - i) * jacobian.T @ B
        rows.append(step[0].std.item() ** 2 * q / ALPHA / slope)
    return torch.stack(rows)


@torch.no_grad()
def law(view: Denoiser, policy: Gaussian, eta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the exact mean (3,) and covariance (3, 3) of the samples of a view whose output is affine in x."""
    times = policy.process.times(len(policy.shift))
    mean, covariance = torch.zeros(3), torch.eye(3)
    points = torch.cat([torch.zeros(1, 3), torch.eye(3)]).view(4, 3, 1, 1)  # 0 and the axes determine an affine map
    for t, t_next in pairwise(times):
        step = policy.process.transition(view(points, t, policy.encode([""] * 4)), points, t, t_next, eta)
        offset = step.mean[0].flatten()
        slope = (step.mean[1:].flatten(1) - offset).T
        mean = slope @ mean + offset
        covariance = slope @ covariance @ slope.T + step.std[0].square().view(1, 1) * torch.eye(3)
    return mean, covariance


@dataclass(frozen=True)
class Affine:
    """Hold the coefficients of every step of a view, x_{i+1} = M x + offset + C shift_i + std noise."""

    M: Tensor  # (T, 3, 3)
    offset: Tensor  # (T, 3)
    C: Tensor  # (T,)
    std: Tensor  # (T,)

    @property
    def J(self) -> Tensor:
        """Return d x_T / d x_{i+1}, (T, 3, 3)."""
        found = [torch.eye(3)]
        for M in self.M[1:].flip(0):
            found.append(found[-1] @ M)
        return torch.stack(found[::-1])

    @property
    def law(self) -> tuple[Tensor, Tensor]:
        """Return the mean (3,) and covariance (3, 3) of x_T."""
        mean, covariance = torch.zeros(3), torch.eye(3)
        for M, offset, std in zip(self.M, self.offset, self.std, strict=True):
            mean, covariance = M @ mean + offset, M @ covariance @ M.T + std**2 * torch.eye(3)
        return mean, covariance

    @property
    def remembered(self) -> Tensor:
        """Return the covariance (3, 3) that x_0 leaves in x_T; the rest is that of the steps' noise."""
        whole = self.J[0] @ self.M[0]
        return whole @ whole.T


@torch.no_grad()
def affine(view: Denoiser, policy: Gaussian, eta: float = 1.0) -> Affine:
    """Return the steps of a view of the Gaussian world."""
    points = torch.cat([torch.zeros(1, 3), torch.eye(3)]).view(4, 3, 1, 1)  # 0 and the axes determine an affine map
    rows: list[list[Tensor]] = [[], [], [], []]
    for t, t_next in pairwise(policy.process.times(len(policy.shift))):
        step, shifted = (
            policy.process.transition(view(points, t, policy.encode([""] * 4)) + e, points, t, t_next, eta)
            for e in (0.0, 1.0)
        )
        offset = step.mean[0].flatten()
        slope = (step.mean[1:].flatten(1) - offset).T
        found = (slope, offset, (shifted.mean - step.mean)[0, 0, 0, 0], step.std[0, 0, 0, 0])
        for row, value in zip(rows, found, strict=True):
            row.append(value)
    return Affine(*map(torch.stack, rows))


def error(found: Tensor, expected: Tensor) -> float:
    """Return the relative error of a tensor."""
    return ((found - expected).norm() / expected.norm()).item()
