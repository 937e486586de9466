"""ReFL predicts the clean image once, at the time of a late state that is drawn once per rollout batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rdt.methods.base import Method
from rdt.methods.refl import ReFL
from rdt.policy import Policy
from rdt.rollout import Sampling, steps
from rdt.stream import Batch
from worlds import tiny_policy

both_processes = pytest.mark.parametrize("make", [tiny_policy.policy, tiny_policy.flow_policy])


def refl(policy: Any, *, margin: float | None = None, num_steps: int = 8, **changed: Any) -> ReFL:
    """Return ReFL; `changed` replaces options."""
    shared: dict[str, Any] = {
        "policy": policy, "reward": tiny_policy.Brightness(), "sampling": Sampling(num_steps, 1.0, 3.0),
        "batch_size": 4, "seed": 0, "lr": 0.0, "weight_decay": 0.0, "max_grad_norm": 1e9,
        "adam_eps": 1e-8, "micro_batch_size": None,
    }  # fmt: skip
    return ReFL(margin=margin, weight=1e-3, **(shared | changed))


def stops(num_steps: int, seed: int = 0, count: int = 200) -> list[int]:
    """Return m of many iterations."""
    method, found = refl(tiny_policy.flow_policy(), num_steps=num_steps, seed=seed), []
    for method.iteration in range(count):
        found.append(method.stop())
    return found


@pytest.mark.parametrize(("num_steps", "first"), [(40, 30), (15, 11), (4, 3), (1, 0)])
def test_it_stops_anywhere_in_the_last_quarter(num_steps: int, first: int) -> None:
    assert set(stops(num_steps)) == set(range(first, num_steps))


@both_processes
def test_it_stops_once_per_rollout_batch_and_runs_the_steps_up_to_there(make: Callable[[], Policy]) -> None:
    policy, passes = make(), [[0, 0]]
    probe = tiny_policy.Probe(lambda method, _: passes.append([policy.passes, policy.backward_passes]))
    tiny_policy.fit(refl(policy), 5, probe)
    spent = torch.tensor(passes).diff(dim=0) // (4 * 2)
    assert spent.tolist() == [[m + 1, 1] for m in stops(8, count=5)] and len(set(stops(8, count=5))) > 1
    assert stops(8) != stops(8, seed=1)


@both_processes
def test_the_prediction_is_the_clean_estimate_of_the_samplers_own_step(make: Callable[[], Policy]) -> None:
    policy = make()

    def look(method: ReFL, batch: Batch) -> None:
        cond, noise, view = policy.encode(batch.prompts), method.noise(batch), method.guided(policy.tuned)
        path = steps(view, policy.process, cond, noise, method.sampling, (0, noise.initial()))
        for m, (step, _) in enumerate(path):
            torch.testing.assert_close(method.prediction(method.sample(batch, stop=m), m), step.x0)

    tiny_policy.fit(refl(policy), 1, tiny_policy.Probe(look))


def test_the_loss_is_the_negative_reward_or_with_a_margin_the_papers() -> None:
    rewards = torch.tensor([-1.0, 0.5, 2.5], requires_grad=True)
    assert refl(tiny_policy.flow_policy()).reward_loss(rewards).equal(-rewards)
    loss = refl(tiny_policy.flow_policy(), margin=2.0).reward_loss(rewards)
    torch.testing.assert_close(loss, torch.tensor([3e-3, 1.5e-3, 0.0]))
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), rewards)[0], torch.tensor([-1e-3, -1e-3, 0.0]))


@both_processes
@pytest.mark.parametrize("margin", [None, 2.0])
def test_a_real_policy_learns(make: Callable[..., Policy], margin: float | None) -> None:
    rewards: list[float] = []

    def look(method: Method, _: Batch) -> None:
        rewards.append(method.trainer.callback_metrics["train/reward"].item())

    method = refl(make(trained=False), margin=margin, num_steps=3, lr=0.02, batch_size=8)
    tiny_policy.fit(method, 12, tiny_policy.Probe(look))
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.005


class Count(tiny_policy.Brightness):
    differentiable = False


def test_a_reward_without_gradient_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^ReFL climbs the reward's gradient, and Count has none;.*$"):
        refl(tiny_policy.flow_policy(), reward=Count())
