"""Soft best-of-N against its law on the Gaussian world, and at its ends, where it is the base or the best image."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.cond import Denoiser
from rdt.evaluation import PairedSampler, Protocol
from rdt.policy import Policy
from rdt.randomness import Noise
from rdt.rollout import Rollout, Sampling, sampled
from rdt.selection import SoftBestOf, gumbel
from worlds import gaussian, tiny_policy
from worlds.gaussian import ALPHA, B, law

SAMPLING = Sampling(3, 1.0, 1.0)


def kept(policy: Policy, count: int, alpha: float | None, rows: range = range(6)) -> Rollout:
    noise = policy.noise(0, "test", rows)
    chosen = SoftBestOf(policy.base, tiny_policy.Brightness(), count, alpha)
    return sampled(policy, chosen, ["a circle"] * len(rows), noise, SAMPLING)


def candidates(policy: Policy, count: int) -> Tensor:
    """Return the latents of every candidate, (N, B, *latent)."""
    noise = policy.noise(0, "test", range(6))
    keys = [noise, *(replace(noise, purpose=f"test candidate {k}") for k in range(1, count))]
    return torch.stack([sampled(policy, policy.base, ["a circle"] * 6, key, SAMPLING).clean for key in keys])


@pytest.mark.parametrize("make", [tiny_policy.policy, tiny_policy.flow_policy])
@pytest.mark.parametrize(("count", "alpha"), [(1, 0.0), (1, 0.1), (8, None)])
def test_one_candidate_or_no_reward_is_the_base_bit_for_bit(make: Any, count: int, alpha: float | None) -> None:
    policy = make()
    plain = sampled(policy, policy.base, ["a circle"] * 6, policy.noise(0, "test", range(6)), SAMPLING)
    passes, found = policy.passes, kept(policy, count, alpha)
    assert found.trajectory.latents.equal(plain.trajectory.latents) and not found.nats.any()
    assert policy.passes == 2 * passes


@pytest.mark.parametrize("make", [tiny_policy.policy, tiny_policy.flow_policy])
def test_alpha_zero_keeps_the_best_and_rises_with_the_candidates(make: Any) -> None:
    policy = make()
    every = candidates(policy, 5)
    scores = torch.stack([policy.decode(x).mean((1, 2, 3)) for x in every])
    found = kept(policy, 5, 0.0)
    assert found.clean.equal(every[scores.argmax(0), torch.arange(6)])
    means = [policy.decode(kept(policy, n, 0.0).clean).mean().item() for n in (1, 2, 5)]
    assert means == sorted(means) and means[0] < means[-1]
    torch.testing.assert_close(found.nats, torch.full((6,), math.log(5) - 4 / 5))


def test_a_sample_depends_on_its_own_candidates_alone() -> None:
    policy = tiny_policy.policy()
    whole, part = kept(policy, 3, 0.01), kept(policy, 3, 0.01, range(2, 4))
    torch.testing.assert_close(whole.clean[2:4], part.clean, rtol=1e-4, atol=1e-5)


def test_gumbel_draws_follow_their_law() -> None:
    found = gumbel(Noise(seed=0, purpose="law", indices=range(20_000), shape=(1,), device="cpu"))
    assert found.mean().item() == pytest.approx(0.5772, abs=0.03)  # Euler's constant
    assert found.var().item() == pytest.approx(math.pi**2 / 6, rel=0.05)


def shares(counts: tuple[int, ...], alpha: float) -> tuple[list[float], list[float], float]:
    """Return, by count, the share of the tilt's shift that is reached and the mean bound in nats; and the tilt's KL."""
    policy = gaussian.world(3)
    mean, covariance = law(policy.base, policy)
    reached, nats = [], []
    for count in counts:
        chosen: Denoiser = SoftBestOf(policy.base, gaussian.Linear(), count, alpha)
        found = sampled(policy, chosen, [""] * 1500, policy.noise(0, "law", range(1500)), SAMPLING)
        moved = found.clean.flatten(1).mean(0) - mean
        reached.append((B @ moved / (B @ covariance @ B / alpha)).item())
        nats.append(found.nats.mean().item())
    return reached, nats, (B @ covariance @ B / (2 * alpha**2)).item()


def test_many_candidates_reach_the_tilt_and_the_bound_its_kl() -> None:
    reached, nats, kl = shares((1, 2, 8, 32), 1.2 * ALPHA)
    assert reached == sorted(reached) and reached[-1] == pytest.approx(1, abs=0.12) and abs(reached[0]) < 0.1
    assert nats[0] == 0 and nats == sorted(nats) and nats[-1] == pytest.approx(kl, rel=0.15)
    assert all(bound <= math.log(count) for bound, count in zip(nats, (1, 2, 8, 32), strict=True))


def test_an_evaluation_reports_the_bound_in_place_of_a_paths_kl() -> None:
    policy = tiny_policy.policy()
    protocol = Protocol(["a circle", "a square"], 3, 2, 6, 0, (1, 1))
    sampler = PairedSampler(protocol, policy, policy.base, SAMPLING)
    _, kl = sampler.samples(SoftBestOf(policy.base, tiny_policy.Brightness(), 4, 0.0), range(2))
    torch.testing.assert_close(kl, torch.full((2,), math.log(4) - 3 / 4))


class Patchy(tiny_policy.Brightness):
    """Have no score for the first image of a batch."""

    missing = "skip"

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        scores = super().forward(images, prompts).clone()
        scores[0] = torch.nan
        return scores


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_an_image_without_a_score_is_not_chosen_unless_none_has_one(alpha: float) -> None:
    policy = tiny_policy.policy()
    noise = policy.noise(0, "test", range(6))
    found = sampled(policy, SoftBestOf(policy.base, Patchy(), 4, alpha), ["a circle"] * 6, noise, SAMPLING)
    assert found.clean[0].equal(candidates(policy, 1)[0, 0]) and found.nats.isfinite().all()
