"""DAS against its law on the Gaussian world, whose normalising constant is known, and at its ends.

For the reward b . x and samples N(mu, Cov) of the base,
    E[exp(r / alpha)] = exp(b . mu / alpha + b Cov b / (2 alpha^2)).
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.errors import Diverged
from rdt.guidance import Context, SequentialMonteCarlo
from rdt.particles import Particles, ParticleSampler, Task
from rdt.process import Flow
from rdt.rollout import Sampling, conditioned, sampled
from rdt.selection import SoftBestOf
from worlds import gaussian, tiny_policy
from worlds.gaussian import ALPHA, B, affine

SAMPLING = Sampling(4, 1.0, 1.0)
POLICIES = [tiny_policy.policy, tiny_policy.flow_policy]
WORLDS = {"ddim": tiny_policy.diffusion(), "posterior": Flow(sampler="posterior"), "flow_sde": Flow()}
FAST = 0.008 * 20  # gamma that lets most of the reward in by the fourth step


def sampler(policy: Any, count: int, alpha: float | None, gamma: float = FAST, gradient: bool = True) -> Any:
    reward = gaussian.Linear() if isinstance(policy, gaussian.Gaussian) else tiny_policy.Brightness()
    return ParticleSampler(policy.base, reward, count, alpha, gamma, gradient)


def task(policy: Any, rows: int, count: int) -> Task:
    prompts = ["a circle"] * rows
    noises = [policy.noise(0, f"law {k}", range(rows)) for k in range(count)]
    cond = conditioned(policy, prompts, noises[0])
    return Task(policy, prompts, noises, cond, SAMPLING, policy.process.times(4))


def images(policy: Any, view: Any, rows: int = 5) -> Tensor:
    return sampled(policy, view, ["a circle"] * rows, policy.noise(0, "test", range(rows)), SAMPLING).trajectory.latents


@pytest.mark.parametrize("make", POLICIES)
def test_without_an_alpha_the_image_is_the_bases_bit_for_bit(make: Any) -> None:
    policy = make()
    assert images(policy, sampler(policy, 4, None)).equal(images(policy, policy.base))


@pytest.mark.parametrize("make", POLICIES)
@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_a_twist_at_the_end_alone_is_soft_best_of_n_bit_for_bit(make: Any, alpha: float) -> None:
    policy = make()
    best = SoftBestOf(policy.base, tiny_policy.Brightness(), 4, alpha)
    found, passes = images(policy, sampler(policy, 4, alpha, 0.0, gradient=False)), policy.passes
    assert found.equal(images(policy, best)) and not found.equal(images(policy, policy.base))
    assert [passes, policy.backward_passes] == [4 * 5 * 4, 0]


@torch.no_grad()
@pytest.mark.parametrize("process", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize(("count", "gradient"), [(1, True), (2, True), (4, True), (4, False)])
def test_the_normalising_constant_is_unbiased_for_every_number_of_particles(
    process: Any, count: int, gradient: bool
) -> None:
    policy, alpha, rows = gaussian.world(4, process=process), 1.5 * ALPHA, 4000
    _, log_z = sampler(policy, count, alpha, gradient=gradient).run(task(policy, rows, count))
    mean, covariance = affine(policy.base, policy).law
    expected = (B @ mean / alpha + B @ covariance @ B / (2 * alpha**2)).exp().item()
    error = 4 * log_z.exp().std().item() / rows**0.5
    assert error < 0.15 * expected
    assert log_z.exp().mean().item() == pytest.approx(expected, abs=error)


@torch.no_grad()
def test_particles_reach_more_of_the_tilt_than_as_many_candidates_and_their_bound_is_above_its_kl() -> None:
    policy, alpha = gaussian.world(4), 0.7 * ALPHA
    mean, covariance = affine(policy.base, policy).law
    whole, shares = (B @ covariance @ B / alpha).item(), []
    best = SoftBestOf(policy.base, gaussian.Linear(), 4, alpha)
    for view in (best, sampler(policy, 4, alpha), sampler(policy, 32, alpha)):
        noise = policy.noise(0, "law", range(1500))
        found = sampled(policy, view, [""] * 1500, noise, SAMPLING)
        shares.append((B @ (found.clean.flatten(1).mean(0) - mean)).item() / whole)
        kl = shares[-1] ** 2 * whole / (2 * alpha)  # of the shift alone
        assert found.nats.mean().item() > 0.9 * kl
    assert shares[0] + 0.1 < shares[1] and shares[2] == pytest.approx(1, abs=0.1)


@torch.no_grad()
@pytest.mark.parametrize("make", POLICIES)
def test_what_steers_a_particle_is_resampled_with_it(make: Any) -> None:
    policy = make()
    method, work = sampler(policy, 6, 1e-3), task(policy, 5, 6)
    weight = torch.tensor([0.0, 30, 0, 0, 0, 0]).double()[:, None].expand(6, 5).clone()
    weight[:, 0] = 0  # this image's particles carry equal weights, so that none is drawn anew
    latents = torch.stack([noise.initial() for noise in work.noises])[:, :, None]
    now = method.arrived(work, latents, torch.zeros(6, 5, 0), weight, 0)
    after, gained = method.resampled(work, now, 0)
    assert after.latents[:, 0].equal(now.latents[:, 0]) and after.weight[:, 0].equal(now.weight[:, 0])
    assert all(after.latents[k, 1:].equal(now.latents[1, 1:]) for k in range(6)) and not after.weight[:, 1:].any()
    again: Particles = method.arrived(work, after.latents, after.log_probs, after.weight, 0)
    for found, expected in ((after.mean, again.mean), (after.slope, again.slope), (after.reward, again.reward)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert again.slope.any() and gained[0] == 0
    torch.testing.assert_close(gained[1:], weight[:, 1:].logsumexp(0) - torch.tensor(6.0).double().log())


def test_a_sample_depends_on_its_own_particles_alone() -> None:
    policy = tiny_policy.policy()
    noise, view = policy.noise(0, "test", range(6)), sampler(policy, 3, 0.01)
    whole = sampled(policy, view, ["a circle"] * 6, noise, SAMPLING)
    part = sampled(policy, view, ["a circle"] * 2, noise[2:4], SAMPLING)
    torch.testing.assert_close(whole.clean[2:4], part.clean, rtol=1e-4, atol=1e-5)


def test_the_reward_is_let_in_by_the_progress_and_whole_at_the_end() -> None:
    view = sampler(tiny_policy.policy(), 4, 0.1, gamma=0.008)
    assert view.level(50, 100) == pytest.approx(1.008**50 - 1) == pytest.approx(view.level(25, 50))
    assert view.level(0, 50) == 0 and view.level(50, 50) == 1 and view.level(45, 50) == 1
    assert sampler(tiny_policy.policy(), 4, 0.1, gamma=0.0).level(3, 4) == 0


class Broken(tiny_policy.Brightness):
    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        return super().forward(images, prompts) * torch.tensor([1.0, torch.nan])


def test_a_score_that_is_not_finite_is_named_with_its_prompt() -> None:
    policy = tiny_policy.policy()
    view = ParticleSampler(policy.base, Broken(), 3, 0.1, FAST, True)
    with pytest.raises(Diverged, match=r"^guidance=das: Broken scored image 1 of the prompt 'a circle' as nan"):
        images(policy, view, rows=2)


class Count(tiny_policy.Brightness):
    differentiable = False


def test_the_guidance_samples_the_base_and_refuses_what_it_cannot_follow() -> None:
    policy = tiny_policy.policy()
    context = Context(policy, policy.base, lambda view, scale=None: view, 4, tiny_policy.Brightness())
    chosen = SequentialMonteCarlo(4, 0.01, FAST, True)(context)
    assert images(policy, chosen).equal(images(policy, sampler(policy, 4, 0.01)))
    blind = Context(policy, policy.base, context.guided, 4, Count())
    with pytest.raises(ValueError, match=r"^guidance=das follows the reward's gradient, and Count has none;"):
        SequentialMonteCarlo(4, 0.01, FAST, True)(blind)
    SequentialMonteCarlo(4, 0.01, FAST, False)(blind)
    with pytest.raises(ValueError, match=r"^guidance=das needs a reward that scores every image$"):
        SequentialMonteCarlo(4, 0.01, FAST, True)(Context(policy, policy.base, context.guided, 4, None))
    for numbers, key in (((0, 0.1, 0.0), "candidates=0"), ((4, 0.0, 0.0), "alpha=0.0"), ((4, 0.1, -1.0), "gamma=-1.0")):
        with pytest.raises(ValueError, match=f"^guidance.{key} must be "):
            SequentialMonteCarlo(*numbers, True)
