"""A method with and one without reward gradients take two steps on every published reward, at tiny size."""

import math

import pytest
import torch

from rdt.rollout import Sampling
from rdt.training.experiment import Experiment, built
from worlds import reward_checkpoints, tiny_policy
from worlds.smallest_run import minimal

REWARDS = ["hps_v2", "pickscore", "clipscore", "aesthetic", "imagereward"]
METHODS = {
    "draft": ([], {}),
    "drift": (["method.group=4", "method.keep=2"], {"embedder": lambda images: images.flatten(1)}),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, list[str]]:
    return reward_checkpoints.write(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module", params=REWARDS)
def reward(request, given, tmp_path_factory):
    cfg = minimal(tmp_path_factory.mktemp("never") / "out", f"reward={request.param}", *given[request.param])
    return Experiment(cfg).reward


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_two_steps_on_a_published_reward(method, reward, tmp_path):
    overrides, own = METHODS[method]
    cfg = minimal(tmp_path / "never", f"method={method}", "batch_size=4", *overrides)
    policy = tiny_policy.policy()
    before = [p.detach().clone() for p in policy.parameters() if p.requires_grad]
    trained = built(cfg.method, "name", "plan", partial=True)(
        policy=policy, reward=reward, sampling=Sampling(num_steps=3, eta=1.0, guidance_scale=2.0), batch_size=4,
        seed=0, adam_eps=1e-8, micro_batch_size=None, **own,
    )  # fmt: skip
    steps = []
    tiny_policy.fit(trained, 2, tiny_policy.Probe(lambda method, _: steps.append(method.global_step)))
    after = [p.detach() for p in policy.parameters() if p.requires_grad]
    assert len(steps) == 2 and all(math.isfinite(p.abs().sum()) for p in after)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not any(p.requires_grad or p.grad is not None for p in reward.parameters())
