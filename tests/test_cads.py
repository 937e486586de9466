"""Condition annealing: conditions are noise early and clean late, keep their size, and do not depend on the batch."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rdt import guidance
from rdt.guidance import Annealing, annealed, noised
from rdt.policy import Cond, Policy
from rdt.randomness import Noise
from rdt.rollout import Sampling, conditioned, rollout
from worlds import tiny_policy

CADS = Annealing(tau1=0.6, tau2=0.9, scale=0.25, psi=1.0)
POLICIES = [tiny_policy.policy, tiny_policy.flow_policy]


def noise(*indices: int) -> Noise:
    return Noise(seed=0, purpose="test", indices=indices, shape=tiny_policy.LATENT, device="cpu")


def cond(*indices: int) -> Cond:
    """Return conditions that carry noise; embeds and pooled differ in mean and deviation."""
    rows = [3.0 + 2 * tiny_policy.normal(1, 5, 8, seed=i) for i in indices]
    return Cond(torch.cat(rows), torch.cat([row.mean(1) for row in rows]), noise(*indices))


def size(x: Tensor) -> Tensor:
    """Return mean and deviation per sample, (2, B)."""
    return torch.stack([x.flatten(1).mean(1), x.flatten(1).std(1)])


@pytest.mark.parametrize("level", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("psi", [1.0, 0.3])
def test_up_to_tau1_the_condition_is_untouched_bit_for_bit(level: float, psi: float) -> None:
    how = dataclasses.replace(CADS, psi=psi)
    for at in (torch.tensor(level), torch.full((3,), level)):
        found = annealed(cond(0, 1, 2), at, how)
        assert found.embeds.equal(cond(0, 1, 2).embeds) and found.pooled.equal(cond(0, 1, 2).pooled)


@pytest.mark.parametrize("level", [0.61, 0.75, 0.95])
def test_every_sample_keeps_its_mean_and_deviation(level: float) -> None:
    clean, found = cond(0, 1, 2), annealed(cond(0, 1, 2), torch.tensor(level), CADS)
    assert not found.embeds.equal(clean.embeds) and not found.pooled.equal(clean.pooled)
    torch.testing.assert_close(size(found.embeds), size(clean.embeds))
    torch.testing.assert_close(size(found.pooled), size(clean.pooled))


def test_without_rescaling_it_is_the_formula_and_psi_mixes() -> None:
    clean, level = cond(0, 1), torch.tensor(0.75)
    raw, mixed, whole = (
        annealed(clean, level, dataclasses.replace(CADS, psi=psi)).embeds for psi in (0.0, 0.4, 1.0)
    )  # fmt: skip
    torch.testing.assert_close(raw, 0.5**0.5 * clean.embeds + 0.25 * 0.5**0.5 * clean.drawn.embeds)
    torch.testing.assert_close(mixed, 0.4 * whole + 0.6 * raw)


@pytest.mark.parametrize("level", [0.9, 1.0])
def test_from_tau2_on_it_is_noise_of_the_conditions_size(level: float) -> None:
    clean, found = cond(0, 1), annealed(cond(0, 1), torch.tensor(level), CADS)
    centred, n = ((x - x.mean((1, 2), keepdim=True)).flatten(1) for x in (found.embeds, clean.drawn.embeds))
    torch.testing.assert_close(torch.cosine_similarity(centred, n), torch.ones(2))
    scaled = dataclasses.replace(CADS, scale=0.1)
    torch.testing.assert_close(annealed(clean, torch.tensor(level), scaled).embeds, found.embeds)


@pytest.mark.parametrize("level", [0.75, 1.0])
def test_no_noise_of_kept_size_is_no_annealing(level: float) -> None:
    """At scale 0 the condition only shrinks, and rescaling at psi 1 undoes that."""
    none = dataclasses.replace(CADS, scale=0.0)
    assert annealed(cond(0, 1), torch.tensor(level), none).embeds.equal(cond(0, 1).embeds)
    almost = annealed(cond(0, 1), torch.tensor(0.75), dataclasses.replace(CADS, scale=1e-7))
    torch.testing.assert_close(almost.embeds, cond(0, 1).embeds, rtol=1e-5, atol=1e-5)
    assert annealed(cond(0, 1), torch.tensor(level), dataclasses.replace(none, psi=0.5)).embeds.isfinite().all()


def test_levels_of_a_batch_are_the_levels_of_its_samples() -> None:
    levels = torch.tensor([0.5, 0.7, 0.95])
    together = annealed(cond(0, 1, 2), levels, CADS)
    for row, level in enumerate(levels):
        alone = annealed(cond(row), level, CADS)
        torch.testing.assert_close(together.embeds[row : row + 1], alone.embeds)


def test_the_noise_does_not_depend_on_the_batch() -> None:
    together = annealed(cond(4, 7, 5), torch.tensor(0.8), CADS)
    alone = annealed(cond(7), torch.tensor(0.8), CADS)
    torch.testing.assert_close(together.embeds[1:2], alone.embeds)
    assert cond(4, 7, 5).drawn.embeds[1:2].equal(cond(7).drawn.embeds)
    assert not cond(4).drawn.embeds.equal(cond(7).drawn.embeds)


@pytest.mark.parametrize("make", POLICIES)
def test_a_rollout_holds_one_noise_and_the_same_at_every_visit(make: Callable[[], Policy]) -> None:
    policy, seen = make(), []

    def watched(x: Tensor, t: Tensor, c: Cond) -> Tensor:
        seen.append((policy.process.level(t).item(), c.embeds))
        return policy.tuned(x, t, c)

    with_noise = conditioned(policy, tiny_policy.PROMPTS, noise(0, 1, 2))
    for _ in range(2):
        rollout(
            noised(watched, policy.process, CADS), policy.process, with_noise, noise(0, 1, 2), Sampling(10, 1.0, 1.0)
        )
    first, again = seen[:10], seen[10:]
    assert all(a[1].equal(b[1]) for a, b in zip(first, again, strict=True))
    early = [embeds for level, embeds in first if level >= CADS.tau2]
    late = [embeds for level, embeds in first if level <= CADS.tau1]
    assert len(early) > 0 and all(embeds.equal(early[0]) for embeds in early)
    assert len(late) > 4 and all(embeds.equal(with_noise.embeds) for embeds in late)


@pytest.mark.parametrize("make", POLICIES)
def test_the_empty_prompt_of_classifier_free_guidance_is_never_noised(make: Callable[[], Policy]) -> None:
    policy, seen = make(), []

    def watched(x: Tensor, t: Tensor, c: Cond) -> Tensor:
        seen.append(c)
        return policy.tuned(x, t, c)

    empty, with_noise = policy.encode([""]), conditioned(policy, tiny_policy.PROMPTS[:2], noise(0, 1))
    context = guidance.Context(policy, policy.base, lambda view, scale: guidance.cfg(watched, empty, 3.0), 4)
    denoiser = guidance.ConditionAnnealing(tau1=0.6, tau2=0.9, scale=0.25, psi=1.0)(context)
    rollout(denoiser, policy.process, with_noise, noise(0, 1), Sampling(4, 1.0, 1.0))
    for c in seen:
        assert c.noise is None and c.embeds[:2].equal(empty.embeds.expand(2, -1, -1))
    assert not seen[0].embeds[2:].equal(with_noise.embeds) and seen[-1].embeds[2:].equal(with_noise.embeds)


def test_no_scale_is_the_tuned_policy_bit_for_bit() -> None:
    policy = tiny_policy.policy()
    context = guidance.Context(policy, policy.base, lambda view, scale: view, 4)
    with_noise = conditioned(policy, tiny_policy.PROMPTS[:2], noise(0, 1))
    denoiser = guidance.ConditionAnnealing(tau1=0.6, tau2=0.9, scale=0.0, psi=1.0)(context)
    found, plain = (
        rollout(view, policy.process, with_noise, noise(0, 1), Sampling(4, 1.0, 1.0))
        for view in (denoiser, policy.tuned)
    )
    assert found.latents.equal(plain.latents)


def test_half_precision_is_kept() -> None:
    clean = cond(0, 1)
    half = dataclasses.replace(clean, embeds=clean.embeds.bfloat16(), pooled=None)
    found = annealed(half, torch.tensor(0.8), CADS).embeds
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(size(found.float()), size(half.embeds.float()), rtol=1e-2, atol=1e-2)


def test_wrong_annealing_is_refused_with_its_values() -> None:
    with pytest.raises(ValueError, match=r"^cond carries no noise .*$"):
        annealed(dataclasses.replace(cond(0), noise=None), torch.tensor(0.8), CADS)
    with pytest.raises(ValueError, match=r"tau1=0.9 must be below tau2=0.6"):
        Annealing(tau1=0.9, tau2=0.6, scale=0.1, psi=1.0)
    for wrong in ({"scale": -0.1}, {"psi": 1.5}):
        with pytest.raises(ValueError, match=r"scale=.* must not be below 0"):
            dataclasses.replace(CADS, **wrong)
