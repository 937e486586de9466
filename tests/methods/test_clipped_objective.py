"""Compares the clipped objective with its formula, step by step, and without samples."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rdt.methods.clipped_objective import ClippedObjective, MicroBatch, Penalty, guarded, log_density
from rdt.policy import Cond
from rdt.randomness import Noise
from rdt.rollout import Sampling, replayed, rollout
from worlds import tiny_policy

STEPS, SHAPE = 4, (2, 3, 3)
PROCESS, SAMPLING = tiny_policy.diffusion(), Sampling(STEPS, 1.0, 1.0)
COND = Cond(torch.zeros(3, 1, 1))


def tuned(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    return 0.8 * x


def base(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    return 0.79 * x


def refuse(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    raise AssertionError("the network ran")


def penalty(coef: float = 0.5, steps: tuple[int, ...] = (0, 1, 2, 3), divided: bool = True) -> Penalty:
    """Return a KL to the base."""
    return Penalty(coef, frozenset(steps), divided)


def objective(**changed: object) -> ClippedObjective:
    """Return the objective of a later update on two of four steps; `changed` replaces fields."""
    plain = ClippedObjective(
        process=PROCESS, tuned=tuned, base=base, clip=1e-3, penalty=penalty(), etas=SAMPLING.etas,
        weights={0: 1.0, 2: 1.0}, logged_steps=STEPS, on_policy=False,
    )  # fmt: skip
    return replace(plain, **changed)


def micro_batch() -> MicroBatch:
    """Return three samples whose rollout was that of the base."""
    noise = Noise(seed=0, purpose="test", indices=range(3), shape=SHAPE, device="cpu")
    cond = replace(COND, noise=noise)
    return MicroBatch(
        cond, rollout(base, PROCESS, COND, noise, SAMPLING), tiny_policy.normal(3, STEPS), torch.ones(3) > 0
    )


@pytest.mark.parametrize("on_policy", [True, False])
def test_losses_are_the_formula_at_each_trained_step(on_policy: bool) -> None:
    batch = micro_batch()
    for i, loss in zip([0, 2], objective(on_policy=on_policy).losses(batch), strict=True):
        ours, theirs = (replayed(view, PROCESS, COND, batch.trajectory, i, 1.0) for view in (tuned, base))
        ratio = (ours.log_prob(batch.trajectory.latents[:, i + 1]) - batch.trajectory.log_probs[:, i]).exp()
        rho, A, kl = torch.ones(3) if on_policy else ratio, batch.advantages[:, i], ours.kl(theirs)
        gain = torch.minimum(A * rho, A * rho.clamp(1 - 1e-3, 1 + 1e-3))
        torch.testing.assert_close(loss.losses, (0.5 * kl / 18 - gain) / 2)
        torch.testing.assert_close(loss.metrics["ratio_error"], (ratio - 1).abs() / 2)
        torch.testing.assert_close(loss.metrics["kl_nats"], kl * STEPS / 2)
        assert loss.metrics["clipped"].equal((gain < A * rho).float() / 2)


def test_without_samples_the_network_is_skipped_and_the_metrics_have_the_same_names() -> None:
    whole = micro_batch()
    none = MicroBatch(
        COND[:0], whole.trajectory[torch.tensor([], dtype=torch.long)], whole.advantages[:0], whole.held[:0]
    )
    for kl_coef in (0.0, 0.5):
        expected = list(objective(penalty=penalty(kl_coef)).losses(whole))
        found = list(objective(penalty=penalty(kl_coef), tuned=refuse, base=refuse).losses(none))
        assert [loss.metrics.keys() for loss in found] == [loss.metrics.keys() for loss in expected]
        assert all(len(loss.losses) == 0 for loss in found)


def test_without_a_kl_the_base_is_skipped() -> None:
    assert len(list(objective(penalty=penalty(0.0), base=refuse).losses(micro_batch()))) == 2


class Counted:
    """Return the base's output and keep how many rows there were."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.rows.append(len(x))
        return base(x, t, cond)


def test_the_kl_is_charged_on_its_steps_and_held_samples_alone_and_nothing_else_runs_the_base() -> None:
    batch, counted = replace(micro_batch(), held=torch.tensor([True, False, True])), Counted()
    early = list(objective(penalty=penalty(steps=(0,)), base=counted).losses(batch))
    whole, free = (list(objective(penalty=penalty(coef)).losses(batch)) for coef in (0.5, 0.0))
    assert counted.rows == [2]
    assert early[0].losses.equal(whole[0].losses) and early[1].losses.equal(free[1].losses)
    assert early[0].losses[1] == free[0].losses[1] and early[0].losses[0] != free[0].losses[0]
    assert early[0].metrics["kl_nats"][1] == 0 and not early[1].metrics["kl_nats"].any()
    assert all("kl_nats" not in loss.metrics for loss in free)


def test_undivided_it_is_half_the_square_of_the_distance_of_the_means() -> None:
    batch = micro_batch()
    plain, whole = (next(objective(penalty=one).losses(batch)) for one in (penalty(0.0), penalty(divided=False)))
    ours, theirs = (replayed(view, PROCESS, COND, batch.trajectory, 0, 1.0) for view in (tuned, base))
    square = (ours.mean - theirs.mean).square().flatten(1).sum(1)
    torch.testing.assert_close(whole.losses - plain.losses, 0.5 * square / 2 / 18 / 2)
    torch.testing.assert_close(whole.metrics["kl_nats"], ours.kl(theirs) * STEPS / 2)  # the log stays in nats


def test_weights_multiply_the_advantages_of_their_steps() -> None:
    batch = micro_batch()
    weighted = list(objective(penalty=penalty(0.0), weights={0: 2.0, 2: 0.5}).losses(batch))
    scaled = replace(batch, advantages=batch.advantages * torch.tensor([2.0, 1.0, 0.5, 1.0]))
    for found, expected in zip(weighted, objective(penalty=penalty(0.0)).losses(scaled), strict=True):
        torch.testing.assert_close(found.losses, expected.losses)


def test_the_guarded_ratio_is_the_plain_one_without_its_drift_and_scaled_by_the_noise() -> None:
    """log rho' = std (log rho + ||m - m_old||^2 / (2 std^2 dims)); the rollout was the base's."""
    batch = micro_batch()
    for i in range(STEPS):
        ours, theirs = (replayed(view, PROCESS, COND, batch.trajectory, i, 1.0) for view in (tuned, base))
        log_rho = ours.log_prob(batch.trajectory.latents[:, i + 1]) - batch.trajectory.log_probs[:, i]
        expected = ours.std.flatten() * (log_rho + ours.kl(theirs) / 18)
        torch.testing.assert_close(guarded(ours, batch, i)[1], expected, rtol=1e-3, atol=1e-6)


def test_of_one_move_of_the_means_the_guarded_ratio_has_mean_zero_and_one_variance_at_all_steps() -> None:
    """The plain ratio's mean is below zero, and its variance grows as a step's noise shrinks."""
    count, move = 4000, 0.01
    noise = Noise(seed=1, purpose="test", indices=range(count), shape=SHAPE, device="cpu")
    cond = Cond(torch.zeros(count, 1, 1), noise=noise)
    path = rollout(base, PROCESS, cond, noise, SAMPLING)
    batch = MicroBatch(cond, path, torch.ones(count, STEPS), torch.ones(count) > 0)
    means, deviations, plain = [], [], []
    for i in range(STEPS):
        old = replayed(base, PROCESS, cond, path, i, 1.0)
        step = replace(old, mean=old.mean + move)
        change = guarded(step, batch, i)[1]
        means.append(change.mean() / (change.std() / count**0.5))
        deviations.append(change.std())
        plain.append(log_density(step, batch, i)[1].std())
    torch.testing.assert_close(torch.stack(deviations), torch.full((STEPS,), move / 18**0.5), rtol=0.05, atol=0)
    assert torch.stack(means).abs().max() < 4 and max(plain) > 3 * min(plain)


def test_on_policy_the_guarded_gradient_is_the_plain_one_with_the_advantages_times_the_noise() -> None:
    batch, gradients = micro_batch(), []
    stds = [replayed(base, PROCESS, COND, batch.trajectory, i, 1.0).std[0].item() for i in (0, 2)]
    for score, weights in ((guarded, {0: 3.0, 2: 5.0}), (log_density, {0: 3.0 * stds[0], 2: 5.0 * stds[1]})):
        scale = torch.tensor(0.79, requires_grad=True)
        plain = objective(
            tuned=lambda x, t, cond, scale=scale: scale * x, penalty=penalty(0.0), on_policy=True, score=score,
            weights=weights,
        )  # fmt: skip
        gradients.append(torch.autograd.grad(sum(loss.losses.sum() for loss in plain.losses(batch)), scale)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)
    assert gradients[0].abs() > 1e-3


def test_the_guarded_ratio_needs_the_noise_of_the_rollout() -> None:
    batch = replace(micro_batch(), cond=COND)
    with pytest.raises(ValueError, match=r"^the micro-batch does not know the noise of its rollout, .*"):
        list(objective(score=guarded).losses(batch))
