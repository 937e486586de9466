"""The tilted Gaussian: a world whose KL-regularised optimum can be solved by hand.

Data N(mu, Sigma), exact epsilon, DDIM with eta = 1, reward b . x, and J[tuned] = E[b . x_T] - alpha sum_i KL_i, the
KLs those of the sampler's steps. There the soft value is V(x) = alpha log E_base[exp(b . x_T / alpha) | x]
= b . E_base[x_T | x] + constant, because the conditional covariance does not depend on x; and Tweedie's x0_hat, affine
with Jacobian J_{i+1} = a Sigma (a^2 Sigma + s^2)^-1, is that conditional mean (a martingale of the DDIM chain at every
T, as its mean is linear in x0_hat). So the best mean of x_{i+1} ~ N(m_i, std_i^2) is
    m_i = m_i^base + std_i^2 J_{i+1}^T b / alpha,
a shift that does not depend on x, and the samples follow base exp(b . x / alpha) / Z = N(mu + Sigma b / alpha, Sigma),
with Sigma the covariance of the sampler: DDIM's own is too small by O(1 / T).
"""

from itertools import pairwise

import torch
from torch import Tensor

from rdt.policy import Denoiser
from rdt.process import Diffusion
from worlds import tiny_policy

DIMS, ALPHA = 3, 0.4
MU, B = torch.tensor([0.5, -1.0, 0.2]), [1.0, -0.5, 0.3]
ROOT = torch.tensor([[0.6, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.2, 0.7]])
SIGMA = ROOT @ ROOT.T
TILT = SIGMA @ torch.tensor(B) / ALPHA


def world(num_steps: int, covariance: Tensor = SIGMA, process: Diffusion | None = None) -> tiny_policy.Gaussian:
    return tiny_policy.Gaussian(
        mean=MU, covariance=covariance, num_steps=num_steps, process=process or tiny_policy.diffusion()
    )


def optimum(policy: tiny_policy.Gaussian, gamma: float = 1.0) -> Tensor:
    """The shift of epsilon (T, 3) that makes the tuned mean the best, each step's reward discounted."""
    process, num_steps = policy.process, len(policy.shift)
    times, one = process.times(num_steps), torch.ones(1, 3, 1, 1)
    rows = []
    for i in range(num_steps):
        step = [process.transition(e * one, one, times[i], times[i + 1], 1.0) for e in (0, 1)]
        slope = (step[1].mean - step[0].mean)[0, 0, 0, 0]
        a, s = tiny_policy.scales(process, times[i + 1])
        last = i == num_steps - 1
        jacobian = torch.eye(3) if last else a * SIGMA @ torch.linalg.inv(a**2 * SIGMA + s**2 * torch.eye(3))
        q = gamma ** (num_steps - 1 - i) * jacobian.T @ torch.tensor(B)
        rows.append(step[0].std.item() ** 2 * q / ALPHA / slope)
    return torch.stack(rows)


@torch.no_grad()
def law(view: Denoiser, policy: tiny_policy.Gaussian) -> tuple[Tensor, Tensor]:
    """Mean (3,) and covariance (3, 3) of what a view whose output is affine samples, exactly."""
    times = policy.process.times(len(policy.shift))
    mean, covariance = torch.zeros(3), torch.eye(3)
    points = torch.cat([torch.zeros(1, 3), torch.eye(3)]).view(4, 3, 1, 1)  # 0 and the axes: an affine map shows there
    for t, t_next in pairwise(times):
        step = policy.process.transition(view(points, t, policy.encode([""] * 4)), points, t, t_next, 1.0)
        offset = step.mean[0].flatten()
        slope = (step.mean[1:].flatten(1) - offset).T
        mean = slope @ mean + offset
        covariance = slope @ covariance @ slope.T + step.std[0].square().view(1, 1) * torch.eye(3)
    return mean, covariance


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()
