"""AlignProp is DRaFT-K with one draw of K per rollout batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rdt.methods.alignprop import AlignProp
from rdt.methods.base import Method
from rdt.methods.draft import Draft
from rdt.policy import Policy
from rdt.randomness import generator
from rdt.rollout import Sampling
from rdt.stream import Batch
from rdt.training.launch import work
from worlds import tiny_policy
from worlds.smallest_run import adapter, minimal, rows

both_processes = pytest.mark.parametrize("make", [tiny_policy.policy, tiny_policy.flow_policy])


def shared(policy: Any, num_steps: int = 4, **changed: Any) -> dict[str, Any]:
    """Return the options that AlignProp and DRaFT share."""
    return {
        "policy": policy, "reward": tiny_policy.Brightness(), "sampling": Sampling(num_steps, 1.0, 3.0),
        "batch_size": 4, "seed": 0, "lr": 0.0, "weight_decay": 0.0, "max_grad_norm": 1e9,
        "adam_eps": 1e-8, "micro_batch_size": None,
    } | changed  # fmt: skip


def alignprop(policy: Any, truncation: str = "uniform", **changed: Any) -> AlignProp:
    return AlignProp(truncation=truncation, mean=42.0, std=5.0, **shared(policy, **changed))


def draws(truncation: str, num_steps: int, seed: int = 0, count: int = 3000) -> Tensor:
    """Return K of many iterations."""
    method = alignprop(tiny_policy.policy(), truncation, num_steps=num_steps, seed=seed)
    return torch.tensor([method.draw(generator(seed, "truncation", k)) for k in range(count)])


def test_uniform_truncation_draws_every_length_equally_often() -> None:
    counts = draws("uniform", 10).bincount()
    assert counts[0] == 0 and len(counts) == 11
    assert ((counts[1:] - 300).abs() < 5 * 300**0.5).all()


def test_gaussian_truncation_equals_the_papers_at_fifty_steps_and_scales_with_the_grid() -> None:
    paper = (50 - (42 + 5 * torch.randn(100_000, generator=torch.Generator().manual_seed(0)))).round().clamp(1, 50)
    for num_steps in (50, 100):
        found = draws("gaussian", num_steps).double()
        assert found.mean().item() == pytest.approx(paper.mean().item() * num_steps / 50, rel=0.05)
        assert found.std().item() == pytest.approx(paper.std().item() * num_steps / 50, rel=0.06)
    assert set(draws("gaussian", 15).tolist()) <= set(range(1, 9))
    assert set(draws("gaussian", 1).tolist()) == {1}


@pytest.mark.parametrize("truncation", ["uniform", "gaussian"])
def test_K_is_drawn_once_per_rollout_batch_and_depends_on_the_key_alone(truncation: str) -> None:
    policy, passes, logged = tiny_policy.flow_policy(), [[0, 0]], []

    def look(method: Method, _: Batch) -> None:
        passes.append([policy.passes, policy.backward_passes])
        logged.append(int(method.trainer.callback_metrics["train/K"]))

    tiny_policy.fit(alignprop(policy, truncation, num_steps=10), 6, tiny_policy.Probe(look))
    spent = torch.tensor(passes).diff(dim=0) // (4 * 2)
    assert spent.tolist() == [[10, K] for K in logged] and len(set(logged)) > 1
    assert logged == draws(truncation, 10, count=6).tolist() != draws(truncation, 10, seed=1, count=6).tolist()


@both_processes
def test_its_gradient_is_that_of_draft_with_the_drawn_K(make: Callable[[], Policy]) -> None:
    policy, found = make(), []

    def look(method: Method, _: Batch) -> None:
        found.append(torch.cat([p.grad.flatten() for p in method.trained]))

    tiny_policy.fit(alignprop(policy), 1, tiny_policy.Probe(look))
    K = draws("uniform", 4, count=1).item()
    tiny_policy.fit(Draft(K=K, **shared(policy)), 1, tiny_policy.Probe(look))
    assert found[0].equal(found[1]) and found[0].any()


@both_processes
def test_a_real_policy_learns(make: Callable[..., Policy]) -> None:
    rewards: list[float] = []

    def look(method: Method, _: Batch) -> None:
        rewards.append(method.trainer.callback_metrics["train/reward"].item())

    tiny_policy.fit(alignprop(make(trained=False), num_steps=3, lr=0.02, batch_size=8), 12, tiny_policy.Probe(look))
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.02


@pytest.mark.slow
def test_a_resumed_run_draws_and_learns_bit_for_bit_what_a_whole_one_does(tmp_path: Path) -> None:
    def run(name: str, iterations: int) -> list[dict[str, str]]:
        settings = ("method=alignprop", "logger=csv", f"iterations={iterations}")
        work(minimal(tmp_path / name, *settings))
        return rows(tmp_path / name)

    whole = run("whole", 4)
    run("broken", 2)
    assert run("broken", 4) == whole and len({row["train/K"] for row in whole}) > 1
    resumed = adapter(tmp_path / "broken")
    assert all(value.equal(resumed[name]) for name, value in adapter(tmp_path / "whole").items())


class Count(tiny_policy.Brightness):
    differentiable = False


def test_bad_options_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^AlignProp climbs the reward's gradient, and Count has none;.*$"):
        alignprop(tiny_policy.policy(), reward=Count())
    with pytest.raises(ValueError, match=r"^method\.truncation=fixed is not one of uniform, gaussian$"):
        alignprop(tiny_policy.policy(), "fixed")
