"""Compares the clipped objective with its formula, step by step, and without samples."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rdt.methods.clipped_objective import ClippedObjective, MicroBatch
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


def objective(**changed: object) -> ClippedObjective:
    """Return the objective of a later update on two of four steps; `changed` replaces fields."""
    plain = ClippedObjective(
        process=PROCESS, tuned=tuned, base=base, clip=1e-3, kl_coef=0.5, etas=SAMPLING.etas, steps=[0, 2],
        stochastic_steps=STEPS, on_policy=False,
    )  # fmt: skip
    return replace(plain, **changed)


def micro_batch() -> MicroBatch:
    """Return three samples whose rollout was that of the base."""
    noise = Noise(seed=0, purpose="test", indices=range(3), shape=SHAPE, device="cpu")
    return MicroBatch(COND, rollout(base, PROCESS, COND, noise, SAMPLING), tiny_policy.normal(3, STEPS))


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
    none = MicroBatch(COND[:0], whole.trajectory[torch.tensor([], dtype=torch.long)], whole.advantages[:0])
    for kl_coef in (0.0, 0.5):
        expected = list(objective(kl_coef=kl_coef).losses(whole))
        found = list(objective(kl_coef=kl_coef, tuned=refuse, base=refuse).losses(none))
        assert [loss.metrics.keys() for loss in found] == [loss.metrics.keys() for loss in expected]
        assert all(len(loss.losses) == 0 for loss in found)


def test_without_a_kl_the_base_is_skipped() -> None:
    assert len(list(objective(kl_coef=0.0, base=refuse).losses(micro_batch()))) == 2
