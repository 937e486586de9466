"""Tests surrogates against values computed by hand: the ridge posterior, resamples, and gradients by differences."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.randomness import generator
from rdt.rewards.surrogate import Surrogate
from worlds import tiny_policy
from worlds.surrogates import DIMS, surrogate

PROMPTS = ["a circle", "a red ring", "a shape on white"]
KINDS = ("bootstrap", "ucb")


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def answers(model: Surrogate, count: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return features of random images, and scores that are linear in them."""
    phi = model.phi(images(count, seed), [PROMPTS[k % len(PROMPTS)] for k in range(count)])
    return phi, 0.3 + 0.1 * phi @ tiny_policy.normal(phi.shape[1], seed=7)


def fitted(kind: str, beta: float = 1.0, seed: int = 0, **changed: Any) -> Surrogate:
    model = surrogate(kind, beta, **changed)
    model.fit(*answers(model), generator(seed, "fit"))
    return model


def test_phi_is_image_and_text_and_their_product() -> None:
    model, batch = surrogate("ucb"), images(3)
    image, text = model.features.image_features(batch), model.features.text_features(PROMPTS)
    assert model.phi(batch, PROMPTS).equal(torch.cat([image, text, image * text], dim=1))


@pytest.mark.parametrize("ridge", [0.1, 1.0, 10.0])
def test_ucb_is_the_ridge_posterior(ridge: float) -> None:
    model = fitted("ucb", ridge=ridge)
    phi, scores = (values.double() for values in answers(model))
    new = answers(model, 8, seed=1)[0].double()
    mean, std, unit = phi.mean(0), phi.std(0, correction=0), scores.std(correction=0)
    known, queried = ((torch.cat([(x - mean) / std, torch.ones(len(x), 1)], 1)) for x in (phi, new))
    a = ridge * torch.eye(3 * DIMS + 1) + sum(torch.outer(row, row) for row in known)
    w = torch.linalg.solve(a, known.T @ ((scores - scores.mean()) / unit))
    width = torch.stack([row @ torch.linalg.solve(a, row) for row in queried]).sqrt()
    found = model.estimate(new.float())
    torch.testing.assert_close(found[0].double(), scores.mean() + unit * (queried @ w), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1].double(), unit * width, atol=1e-5, rtol=1e-4)


def test_ucb_is_more_certain_where_it_has_more_answers() -> None:
    model = surrogate("ucb")
    phi, scores = answers(model)
    widths = []
    for repeats in (1, 4):
        model.fit(phi.repeat(repeats, 1), scores.repeat(repeats), generator("fit"))
        widths.append(model.estimate(phi)[1])
    assert (widths[1] < widths[0]).all()
    assert model.estimate(phi + 10)[1].min() > widths[1].max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_function_is_learned(kind: str) -> None:
    model = fitted(kind, ridge=1e-3)
    phi, scores = answers(model, 200, seed=1)
    assert torch.corrcoef(torch.stack([model.estimate(phi)[0], scores]))[0, 1] > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_optimism_is_beta_spreads_above_the_mean(kind: str) -> None:
    batch = images(3, seed=1)
    greedy, optimistic = (fitted(kind, beta)(batch, PROMPTS) for beta in (0.0, 2.0))
    mean, spread = fitted(kind).estimate(fitted(kind).phi(batch, PROMPTS))
    assert greedy.equal(mean) and (spread > 0).all()
    torch.testing.assert_close(optimistic, mean + 2 * spread)


def test_a_bootstrap_depends_on_its_generator_alone() -> None:
    first, again, other = (fitted("bootstrap", seed=seed) for seed in (0, 0, 1))
    assert all(value.equal(again.learned()[name]) for name, value in first.learned().items())
    assert not first.learned()["hidden"].equal(other.learned()["hidden"])


def test_members_of_a_bootstrap_learn_from_different_answers() -> None:
    """One member has no spread; four, each fitted to its own resample, differ."""
    spreads = [fitted("bootstrap", members=members).estimate(tiny_policy.normal(5, 3 * DIMS))[1] for members in (1, 4)]
    assert spreads[0].max() < 1e-5 < spreads[1].min()


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_reaches_the_image(kind: str) -> None:
    model, inside = fitted(kind, beta=2.0), 0.2 + 0.6 * images(3, seed=1)  # away from the ends of [0, 1]
    pixels, step = inside.clone().requires_grad_(), 1e-2 * tiny_policy.normal(*inside.shape)
    (slope,) = torch.autograd.grad(model(pixels, PROMPTS).sum(), pixels)
    ahead, behind = (model(inside + sign * step, PROMPTS).sum().item() for sign in (1, -1))
    assert (slope * step).sum().item() == pytest.approx((ahead - behind) / 2, rel=2e-2)
    assert not any(p.requires_grad for p in model.parameters()) and model.differentiable


@pytest.mark.parametrize("kind", KINDS)
def test_fitted_tensors_can_be_loaded_into_another_surrogate(kind: str) -> None:
    model, other = fitted(kind), surrogate(kind)
    assert not other.learned()
    other.load({name: value.clone() for name, value in model.learned().items()})
    assert other(images(3), PROMPTS).equal(model(images(3), PROMPTS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5])
def test_equal_answers_are_predicted_exactly(kind: str, count: int) -> None:
    model = surrogate(kind, beta=0.0)
    phi, _ = answers(model, count)
    model.fit(phi, torch.full((count,), 0.7), generator("fit"))
    assert model(images(3, seed=1), PROMPTS).tolist() == pytest.approx([0.7] * 3)
