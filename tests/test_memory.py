"""How much of its first noise a sampler's chain keeps, and how far its spread is from the data's.

A KL-regularised optimum over a chain is the tilt of its samples only as far as these forget the first noise. In the
Gaussian world both are exact: the share of the variance along b that x_0 leaves, and the covariance of x_T.
"""

from itertools import pairwise

import pytest
import torch

from rdt.process import Flow, Process
from worlds import gaussian, tiny_policy
from worlds.gaussian import SIGMA, Affine, B, affine, error

SHARES = [  # (process, eta, T, share remembered, relative error of the covariance)
    (tiny_policy.diffusion(), 1.0, 10, 0.007, 0.40),
    (tiny_policy.diffusion(), 1.0, 50, 0.0018, 0.13),
    (tiny_policy.diffusion(), 0.5, 10, 0.39, 0.29),
    (tiny_policy.diffusion(), 0.5, 50, 0.22, 0.08),
    (Flow(), 0.7, 10, 0.048, 0.07),
    (Flow(), 0.7, 40, 0.036, 0.005),
    (Flow(), 1.0, 10, 0.0009, 0.015),
    (Flow(), 1.0, 40, 0.0006, 0.002),
    (Flow(), 2**0.5, 10, 0.0, 0.012),
    (Flow(sampler="cps"), 0.7, 10, 0.0001, 0.43),
    (Flow(sampler="cps"), 0.7, 40, 0.0, 0.33),
    (Flow(sampler="posterior"), 1.0, 10, 0.0, 0.37),
    (Flow(sampler="posterior"), 1.0, 40, 0.0, 0.12),
    (Flow(sampler="sde", shift=3.0), 0.7, 10, 0.018, 0.23),
    (Flow(sampler="posterior", shift=3.0), 1.0, 40, 0.0, 0.21),
]


def chain(process: Process, eta: float, num_steps: int) -> Affine:
    policy = gaussian.world(num_steps, process=process)
    return affine(policy.base, policy, eta)


@pytest.mark.parametrize(("process", "eta", "num_steps", "share", "spread"), SHARES)
def test_a_chain_remembers_this_share_of_its_first_noise(
    process: Process, eta: float, num_steps: int, share: float, spread: float
) -> None:
    steps = chain(process, eta, num_steps)
    covariance = steps.law[1]
    assert (B @ steps.remembered @ B / (B @ covariance @ B)).item() == pytest.approx(share, rel=0.06, abs=6e-5)
    assert error(covariance, SIGMA) == pytest.approx(spread, rel=0.05, abs=6e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_posterior_chain_of_a_flow_forgets_everything_and_its_jacobian_is_tweedies(shift: float) -> None:
    process = Flow(sampler="posterior", shift=shift)
    steps, times = chain(process, 1.0, 12), process.times(12)
    assert steps.remembered.abs().max() < 1e-12
    for J, (_, t) in zip(steps.J, pairwise(times), strict=True):
        tweedie = (1 - t) * SIGMA @ torch.linalg.inv((1 - t) ** 2 * SIGMA + t**2 * torch.eye(3))
        torch.testing.assert_close(J, tweedie, atol=1e-5, rtol=1e-4)


def test_under_flow_sde_the_two_jacobians_differ_early_on_and_agree_late() -> None:
    process = Flow()
    steps, times = chain(process, 1.0, 40), process.times(40)
    errors = []
    for J, (_, t) in zip(steps.J, pairwise(times), strict=True):
        tweedie = (1 - t) * SIGMA @ torch.linalg.inv((1 - t) ** 2 * SIGMA + t**2 * torch.eye(3))
        errors.append(error(J.T @ B, tweedie.T @ B))
    assert min(errors[:10]) > 1 and max(errors) > 3
    assert max(errors[-8:]) < 0.05
